// upfirdn2d's kernel for any factors, taps and dtype, and the gradient of the filter.
#pragma once
#include "pack.cuh"
#include "upfirdn2d_params.h"

namespace gk {

// What a thread moves at once: V numbers.
template <typename T, int V>
struct ItemOf {
  using type = Pack<T>;
  static_assert(V == kPack<T>, "one number, or 16 bytes");
};
template <typename T>
struct ItemOf<T, 1> {
  using type = T;
};

template <typename T>
__device__ __forceinline__ acc_of<T> tap_at(const void* f, i32 float_filter, i64 at) {
  return float_filter ? static_cast<acc_of<T>>(static_cast<const float*>(f)[at]) : widen(static_cast<const T*>(f)[at]);
}

// Item `i` of y: its pack of channels, column, row and plane.
struct FirItem {
  i64 channel, x, y, plane;
};
template <typename Params>
__device__ __forceinline__ FirItem item_of(const Params& p, i64 i) {
  const i64 pixel = p.channels.quotient(i), line = p.out_width.quotient(pixel), plane = p.out_height.quotient(line);
  return {i - pixel * p.channels.by, pixel - line * p.out_width.by, line - plane * p.out_height.by, plane};
}

// The first sample that output `o` meets, inside or not, and its tap.
__device__ __forceinline__ i64 first_sample(const FirAnyAxis& axis, i64 o, i64& tap) {
  const i64 at = o * axis.down - axis.pad;  // on the upsampled image
  const i64 first = axis.up.quotient(at + axis.bias + axis.up.by - 1);
  tap = first * axis.up.by - at - axis.bias;
  return first - axis.up.quotient(axis.bias);
}

// An item a thread; samples that outputs share come from the L1 cache.
template <typename T, int V>
__global__ void __launch_bounds__(kFirThreads) upfirdn2d_any(const __grid_constant__ FirAnyParams p) {
  using acc_t = acc_of<T>;
  using Item = typename ItemOf<T, V>::type;
  const i64 i = static_cast<i64>(blockIdx.x) * kFirThreads + threadIdx.x;
  if (i >= p.items) return;
  const FirItem item = item_of(p, i);
  i64 tap_x, tap_y;
  const i64 left = first_sample(p.h, item.x, tap_x), top = first_sample(p.v, item.y, tap_y);
  acc_t sums[V];
#pragma unroll
  for (int k = 0; k < V; ++k) sums[k] = 0;
  for (i64 y = top, ty = tap_y; ty < p.v.taps; ++y, ty += p.v.up.by) {
    if (y < 0 || y >= p.v.in) continue;
    const i64 row = p.flip ? ty : p.v.taps - 1 - ty;
    const Item* from = static_cast<const Item*>(p.x) + (item.plane * p.v.in + y) * p.h.in * p.channels.by;
    acc_t line[V];
#pragma unroll
    for (int k = 0; k < V; ++k) line[k] = 0;
    for (i64 x = left, tx = tap_x; tx < p.h.taps; ++x, tx += p.h.up.by) {
      if (x < 0 || x >= p.h.in) continue;
      const i64 column = p.flip ? tx : p.h.taps - 1 - tx;
      const acc_t w = tap_at<T>(p.f, p.float_filter, p.fy ? column : row * p.h.taps + column);
      const Item pack = from[x * p.channels.by + item.channel];
#pragma unroll
      for (int k = 0; k < V; ++k) line[k] += w * widen(reinterpret_cast<const T*>(&pack)[k]);
    }
    const acc_t w = p.fy ? tap_at<T>(p.fy, p.float_filter, row) : acc_t(1);
#pragma unroll
    for (int k = 0; k < V; ++k) sums[k] += w * line[k];
  }
  Item out;
#pragma unroll
  for (int k = 0; k < V; ++k) reinterpret_cast<T*>(&out)[k] = narrow<T>(static_cast<acc_t>(p.gain) * sums[k]);
  static_cast<Item*>(p.y)[i] = out;
}

// The sum of a number of each thread; `shared` has room for one a warp.
__device__ __forceinline__ double sum_of_block(double value, double* shared) {
#pragma unroll
  for (int step = 16; step; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  for (int warp = 0; warp < kFirThreads / 32; ++warp) total += shared[warp];
  return total;
}

// The products of g with the samples that kFirTaps taps meet, summed over a split of g.
template <typename T, int V>
__global__ void __launch_bounds__(kFirThreads, 2) upfirdn2d_filter_grad(const __grid_constant__ FirFilterGradParams p) {
  using acc_t = acc_of<T>;
  using Item = typename ItemOf<T, V>::type;
  __shared__ double shared[kFirThreads / 32];
  const i64 taps = p.h.taps * p.v.taps, tap = static_cast<i64>(blockIdx.y) * kFirTaps;
  const i64 stride = static_cast<i64>(gridDim.x) * kFirThreads;
  acc_t sums[kFirTaps];
#pragma unroll
  for (int t = 0; t < kFirTaps; ++t) sums[t] = 0;
  for (i64 i = static_cast<i64>(blockIdx.x) * kFirThreads + threadIdx.x; i < p.items; i += stride) {
    const FirItem item = item_of(p, i);
    const Item g = static_cast<const Item*>(p.g)[i];
    const Item* plane = static_cast<const Item*>(p.x) + item.plane * p.v.in * p.h.in * p.channels.by + item.channel;
    const i64 left = item.x * p.h.down - p.h.pad, top = item.y * p.v.down - p.v.pad;  // on the upsampled image
    i64 ty = p.taps_x.quotient(tap), tx = tap - ty * p.h.taps;
#pragma unroll
    for (int t = 0; t < kFirTaps; ++t) {
      const i64 at_x = left + tx, at_y = top + ty;
      if (at_x >= 0 && at_y >= 0 && ty < p.v.taps) {
        const i64 x = p.h.up.quotient(at_x), y = p.v.up.quotient(at_y);
        if (x < p.h.in && y < p.v.in && x * p.h.up.by == at_x && y * p.v.up.by == at_y) {
          const Item pack = plane[(y * p.h.in + x) * p.channels.by];
#pragma unroll
          for (int k = 0; k < V; ++k)
            sums[t] += widen(reinterpret_cast<const T*>(&g)[k]) * widen(reinterpret_cast<const T*>(&pack)[k]);
        }
      }
      if (++tx == p.h.taps) tx = 0, ++ty;
    }
  }
#pragma unroll
  for (int t = 0; t < kFirTaps; ++t) {
    const double total = sum_of_block(sums[t], shared);
    if (threadIdx.x == 0 && tap + t < taps) p.sums[blockIdx.x * taps + tap + t] = total;
  }
}

// The total of a tap over the splits; a block a tap.
template <typename T>
__global__ void __launch_bounds__(kFirThreads) upfirdn2d_filter_sums(const __grid_constant__ FirFilterSumsParams p) {
  __shared__ double shared[kFirThreads / 32];
  const i64 tap = blockIdx.x;
  double total = 0;
  for (i64 split = threadIdx.x; split < p.splits; split += kFirThreads) total += p.sums[split * p.taps + tap];
  total = sum_of_block(total, shared);
  if (threadIdx.x == 0) static_cast<T*>(p.out)[p.flip ? tap : p.taps - 1 - tap] = static_cast<T>(p.gain * total);
}

}  // namespace gk
