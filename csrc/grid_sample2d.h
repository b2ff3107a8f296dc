// Arithmetic of grid_sample2d that CPU and CUDA share. A sample is sum_ik X_i Y_k x[i, k] over the two nearest pixels
// of either axis, where a weight X is linear in the grid's coordinate between pixels: its derivative D is constant
// there and it has no second one. So values, derivatives along a direction, and the mixed derivative are all sums over
// the same four pixels, with weights
//   order 0: X_i Y_k;  order 1, along (u, v): u DX_i Y_k + v X_i DY_k;  order 2, times a number: DX_i DY_k
#pragma once
#include "host_device.h"

namespace gk {

constexpr int kSampleBilinear = 0, kSampleNearest = 1;
constexpr int kSampleZeros = 0, kSampleBorder = 1, kSampleReflection = 2;

struct SampleSettings {
  int mode, padding, align;
};

// The two pixels of an axis that a coordinate lies between, 0 where outside. `in`: is it a pixel?
template <class A>
struct SampleAxis {
  A weight[2], slope[2];
  int pixel[2];
  int in[2];
};

#if defined(__CUDA_ARCH__) || defined(__CUDACC_RTC__)
GK_HD float sample_floor(float v) { return floorf(v); }
GK_HD double sample_floor(double v) { return floor(v); }
GK_HD float sample_round(float v) { return rintf(v); }
GK_HD double sample_round(double v) { return rint(v); }
#else
GK_HD float sample_floor(float v) { return __builtin_floorf(v); }
GK_HD double sample_floor(double v) { return __builtin_floor(v); }
GK_HD float sample_round(float v) { return __builtin_rintf(v); }
GK_HD double sample_round(double v) { return __builtin_rint(v); }
#endif

// `g`: the coordinate, -1 to 1 over the image.
template <class A>
GK_HD SampleAxis<A> sample_axis(A g, int size, const SampleSettings& s) {
  const A last = A(size - 1);
  A slope = A(0.5) * (s.align ? last : A(size));
  A at = g * slope + A(0.5) * last;
  if (s.padding == kSampleReflection) {  // about the outermost pixels' centres, or their edges
    const A low = s.align ? A(0) : A(-0.5), span = s.align ? last : A(size);
    if (span == A(0)) {
      at = at == at ? A(0) : at;  // a NaN stays one
      slope = A(0);
    } else {
      const bool before = at < low;
      const A away = before ? low - at : at - low;
      const A turns = sample_floor(away / span), rest = away - turns * span;
      const bool odd = turns != A(2) * sample_floor(A(0.5) * turns);
      at = odd ? low + span - rest : low + rest;
      slope = odd != before ? -slope : slope;
    }
  }
  if (s.padding != kSampleZeros) {
    const bool low = at <= A(0), high = at >= last;
    at = low ? A(0) : high ? last : at;
    slope = low || high ? A(0) : slope;
  }
  SampleAxis<A> out;
  if (s.mode == kSampleNearest) {
    at = sample_round(at);
    const bool in = at >= A(0) && at <= last;
    out.weight[0] = in ? A(1) : A(0);
    out.weight[1] = out.slope[0] = out.slope[1] = A(0);
    out.pixel[0] = in ? static_cast<int>(at) : 0;
    out.pixel[1] = 0;
    out.in[0] = in;
    out.in[1] = false;
    return out;
  }
  // Two pixels beyond is as far outside as any; a NaN goes there too.
  at = at > A(-2) ? at : A(-2);
  at = at < A(size) ? at : A(size);
  const A below = sample_floor(at), t = at - below;
  const int pixel = static_cast<int>(below);
  const bool low = pixel >= 0 && pixel < size, high = pixel >= -1 && pixel < size - 1;
  out.weight[0] = low ? A(1) - t : A(0);
  out.weight[1] = high ? t : A(0);
  out.slope[0] = low ? -slope : A(0);
  out.slope[1] = high ? slope : A(0);
  out.pixel[0] = low ? pixel : 0;
  out.pixel[1] = high ? pixel + 1 : 0;
  out.in[0] = low;
  out.in[1] = high;
  return out;
}

// Coordinate `i` of `size` that span -1 to 1, as affine grids have them.
template <class A>
GK_HD A sample_base(int i, int size, int align) {
  if (align) return size > 1 ? A(2 * i - (size - 1)) / A(size - 1) : A(0);
  return A(2 * i + 1 - size) / A(size);
}

}  // namespace gk
