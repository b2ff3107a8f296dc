// grid_sample2d's kernel: samples, their adjoint by atomics, or the products that are the grid's derivatives.
#pragma once
#include "grid_sample2d_params.h"
#include "pack.cuh"

namespace gk {

template <typename T>
__device__ __forceinline__ acc_of<T> grid_at(const SampleParams& p, i64 at) {
  return p.acc_grid ? static_cast<const acc_of<T>*>(p.grid)[at] : widen(static_cast<const T*>(p.grid)[at]);
}

template <typename T, int V>
__device__ __forceinline__ void load_channels(const T* from, acc_of<T> (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = widen(*from);
  } else {
    widen<T, V>(load_whole<T, V>(from), to);
  }
}

template <typename T, int K, int V>
__global__ void __launch_bounds__(kSampleThreads) grid_sample2d_walk(const __grid_constant__ SampleParams p) {
  using acc_t = acc_of<T>;
  const i64 item = static_cast<i64>(blockIdx.x) * kSampleThreads + threadIdx.x;
  const bool real = (item >> p.lanes_shift) < p.points;
  const i64 point = real ? item >> p.lanes_shift : 0;  // the products' lanes meet again: none leaves
  const i64 lane = item & ((1 << p.lanes_shift) - 1);
  const i64 sample = p.out_pixels.quotient(point), at = point - sample * p.out_pixels.by;
  acc_t gx, gy;
  if (p.affine) {
    const int row = static_cast<int>(p.row.quotient(at)), column = static_cast<int>(at - row * p.row.by);
    const acc_t u = sample_base<acc_t>(column, p.out_width, p.settings.align);
    const acc_t v = sample_base<acc_t>(row, p.out_height, p.settings.align);
    gx = grid_at<T>(p, sample * 6) * u + grid_at<T>(p, sample * 6 + 1) * v + grid_at<T>(p, sample * 6 + 2);
    gy = grid_at<T>(p, sample * 6 + 3) * u + grid_at<T>(p, sample * 6 + 4) * v + grid_at<T>(p, sample * 6 + 5);
  } else {
    gx = grid_at<T>(p, 2 * point);
    gy = grid_at<T>(p, 2 * point + 1);
  }
  const SampleAxis<acc_t> x = sample_axis(gx, p.width, p.settings), y = sample_axis(gy, p.height, p.settings);
  acc_t weight[4], sum[4];
  i64 pixel[4];
  bool met[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int a = i % 2, b = i / 2;
    pixel[i] = (static_cast<i64>(y.pixel[b]) * p.width + x.pixel[a]) * p.x_pixel;
    met[i] = x.in[a] && y.in[b];
    sum[i] = 0;
    if constexpr (K < 2) {
      const acc_t* along = static_cast<const acc_t*>(p.along);
      if (p.order == 0)
        weight[i] = x.weight[a] * y.weight[b];
      else if (p.order == 1)
        weight[i] = along[2 * point] * x.slope[a] * y.weight[b] + along[2 * point + 1] * x.weight[a] * y.slope[b];
      else
        weight[i] = along[point] * x.slope[a] * y.slope[b];
      met[i] = met[i] && weight[i] != acc_t(0);
    }
  }
  const i64 image = sample * p.channels * p.height * p.width;
  T* to = static_cast<T*>(p.y) + sample * p.channels * p.out_pixels.by + at * p.x_pixel;
  const i64 begin = blockIdx.y * p.channels_a_block;
  i64 end = begin + p.channels_a_block < p.channels ? begin + p.channels_a_block : p.channels;
  if (!real) end = begin;
  for (i64 k = begin + lane * V; k < end; k += static_cast<i64>(V) << p.lanes_shift) {
    acc_t g[V];
    if constexpr (K == 0) {
#pragma unroll
      for (int v = 0; v < V; ++v) g[v] = 0;
    } else {
      load_channels<T, V>(to + k * p.y_channel, g);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!met[i]) continue;
      const i64 from = image + pixel[i] + k * p.x_channel;
      if constexpr (K == 1) {
#pragma unroll
        for (int v = 0; v < V; ++v) atomicAdd(static_cast<acc_t*>(p.sums) + from + v, weight[i] * g[v]);
      } else {
        acc_t values[V];
        load_channels<T, V>(static_cast<const T*>(p.x) + from, values);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if constexpr (K == 0)
            g[v] += weight[i] * values[v];
          else
            sum[i] += values[v] * g[v];
        }
      }
    }
    if constexpr (K == 0) {
      if constexpr (V == 1)
        to[k * p.y_channel] = narrow<T>(g[0]);
      else
        store_whole<T, V>(to + k * p.y_channel, g);
    }
  }
  if constexpr (K == 2) {
    acc_t dx = 0, dy = 0, mixed = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int a = i % 2, b = i / 2;
      dx += x.slope[a] * y.weight[b] * sum[i];
      dy += x.weight[a] * y.slope[b] * sum[i];
      mixed += x.slope[a] * y.slope[b] * sum[i];
    }
    for (int apart = (1 << p.lanes_shift) / 2; apart; apart /= 2) {
      dx += __shfl_xor_sync(0xffffffffu, dx, apart);
      dy += __shfl_xor_sync(0xffffffffu, dy, apart);
      mixed += __shfl_xor_sync(0xffffffffu, mixed, apart);
    }
    if (!real || lane) return;
    acc_t* out = static_cast<acc_t*>(p.sums);
    if (p.order == 2) {
      out[point] = mixed;
    } else {
      out[2 * point] = dx;
      out[2 * point + 1] = dy;
    }
  }
}

}  // namespace gk
