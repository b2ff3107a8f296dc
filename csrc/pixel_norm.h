// The arithmetic of pixel_norm that CPU and CUDA share: what follows, vector by vector, from a pass's sums.
//
// With m(a, b) = mean(a b) over the vector and r = 1 / sqrt(m(x, x) + eps): y = r x. The slope is symmetric, so that
// the first derivative is J(g) = r g - r^3 m(g, x) x, of <v, J(g)> the derivative for g is J(v), and for x -r^3 ((m(v,
// g) - 3 r^2 m(v, x) m(g, x)) x + m(g, x) v + m(v, x) g).
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GK_PIXEL_NORM __host__ __device__ __forceinline__
#else
#define GK_PIXEL_NORM inline
#include <cmath>
#endif

namespace gk {

// Sums that order K needs: of x x; g x; v x, v g.
template <int K>
constexpr int kPixelNormSums = K == 0   ? 1
                               : K == 1 ? 2
                                        : 4;

// The results as combinations: of order 0 and 1 x_on_x x + x_on_g g; of order 2 that for x, x_on_v v more, and that for
// g, g_on_v v + g_on_x x.
template <class T, int K>
struct PixelNorm {
  T x_on_x, x_on_g, x_on_v, g_on_x, g_on_v;

  GK_PIXEL_NORM PixelNorm() {}
  GK_PIXEL_NORM PixelNorm(const T* sums, T count, T eps) : x_on_g(0), x_on_v(0), g_on_x(0), g_on_v(0) {
    const T r = 1 / std_sqrt(sums[0] / count + eps);
    x_on_x = r;
    if constexpr (K > 0) {
      const T cube = r * r * r, gx = sums[1] / count;
      x_on_x = -cube * gx;
      x_on_g = r;
      if constexpr (K == 2) {
        const T vx = sums[2] / count, vg = sums[3] / count;
        x_on_x = -cube * (vg - 3 * (r * vx) * (r * gx));
        x_on_g = -cube * vx;
        x_on_v = -cube * gx;
        g_on_x = -cube * vx;
        g_on_v = r;
      }
    }
  }

 private:
  static GK_PIXEL_NORM T std_sqrt(T x) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
    return sqrt(x);
#else
    return std::sqrt(x);
#endif
  }
};

}  // namespace gk
