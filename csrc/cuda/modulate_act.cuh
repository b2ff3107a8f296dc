// modulate_act's kernel: value, backward or double backward of a block of a sample, with the sums for its gradients.
#pragma once
#include "activate.cuh"
#include "block_sums.cuh"
#include "modulate_act_params.h"
#include "pack.cuh"

namespace gk {

// V numbers along the inner axis.
template <typename acc_t, int V>
__device__ __forceinline__ void load_line(const ModulateLine& line, i64 sample, i64 at, bool inside, acc_t otherwise,
                                          acc_t (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = otherwise;
  if (!line.at || !inside) return;
  const acc_t* from = static_cast<const acc_t*>(line.at) + sample * line.pitch + at;
  constexpr int W = V == 1 ? 1 : kPack<acc_t>;
#pragma unroll
  for (int first = 0; first < V; first += W) {
    const Pack<acc_t, W> pack = load_whole<acc_t, W>(from + first);
#pragma unroll
    for (int i = 0; i < W; ++i) to[first + i] = pack.v[i];
  }
}

// The number of a row.
template <typename acc_t>
__device__ __forceinline__ acc_t of_row(const ModulateLine& line, i64 sample, i64 row, bool here, acc_t otherwise) {
  return line.at && here ? static_cast<const acc_t*>(line.at)[sample * line.pitch + row] : otherwise;
}

template <typename T, int V>
__device__ __forceinline__ void load_image(const void* from, i64 at, bool here, acc_of<T> (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = 0;
  if (from && here) widen<T, V>(load_whole<T, V>(static_cast<const T*>(from) + at), to);
}

template <typename T, int V>
__device__ __forceinline__ void store_image(void* to, i64 at, bool here, const acc_of<T> (&from)[V]) {
  if (to && here) store_together<T, V>(static_cast<T*>(to) + at, from);
}

// A block has threadIdx.x along packs of the inner axis, threadIdx.y along the outer one; it is whole warps.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kModulateThreads, K == 0 ? 3 : 2)
    modulate_act_pass(const __grid_constant__ ModulateActParams p) {
  using acc_t = acc_of<T>;
  const u32 inner_block = blockIdx.x % p.inner_blocks, rest = blockIdx.x / p.inner_blocks;
  const i64 outer_block = rest % p.outer_blocks, sample = rest / p.outer_blocks;
  const i64 column = (static_cast<i64>(inner_block) * blockDim.x + threadIdx.x) * V;
  const bool inside = column < p.inner;
  acc_t scales[V], shifts[V], h_scales[V], h_shifts[V], column_d[V], column_dx[V];
  load_line(p.scale[kInner], sample, column, inside, acc_t(1), scales);
  load_line(p.shift[kInner], sample, column, inside, acc_t(0), shifts);
  if constexpr (K == 2) {
    load_line(p.h_scale[kInner], sample, column, inside, acc_t(0), h_scales);
    load_line(p.h_shift[kInner], sample, column, inside, acc_t(0), h_shifts);
  }
#pragma unroll
  for (int i = 0; i < V; ++i) column_d[i] = column_dx[i] = 0;
  const i64 begin = outer_block * p.rows, end = begin + p.rows < p.outer ? begin + p.rows : p.outer;
  for (i64 start = begin; start < end; start += blockDim.y) {  // as often for all threads: sums are shuffled
    const i64 row = start + threadIdx.y, at = (sample * p.outer + row) * p.inner + column;
    const bool in_row = row < end, here = inside && in_row;
    acc_t x[V], g[V], h[V], u[V], d[V], q[V], v[V];
    load_image<T>(p.x, at, here, x);
    if constexpr (K > 0) load_image<T>(p.g, at, here, g);
    if constexpr (K == 2) load_image<T>(p.h, at, here, h);
    const acc_t row_scale = of_row(p.scale[kOuter], sample, row, in_row, acc_t(1));
    const acc_t row_shift = of_row(p.shift[kOuter], sample, row, in_row, acc_t(0));
#pragma unroll
    for (int i = 0; i < V; ++i) u[i] = row_scale * scales[i] * x[i] + (row_shift + shifts[i]);
    acc_t row_h_scale = 0;
    if constexpr (K == 2) {
      row_h_scale = of_row(p.h_scale[kOuter], sample, row, in_row, acc_t(0));
      const acc_t row_h_shift = of_row(p.h_shift[kOuter], sample, row, in_row, acc_t(0));
#pragma unroll
      for (int i = 0; i < V; ++i)
        q[i] = row_scale * scales[i] * h[i] + (row_h_scale + h_scales[i]) * x[i] + (row_h_shift + h_shifts[i]);
    }
    activate<K>(p, u, g, d, q, v);
    if constexpr (K == 0) {
      store_image<T>(p.out, at, here, v);
    } else {
      acc_t out[V];
      if constexpr (K == 2) store_image<T>(p.out_g, at, here, q);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const acc_t scale = row_scale * scales[i];
        if constexpr (K == 1) {
          out[i] = scale * d[i];
          u[i] = d[i] * x[i];
        } else {
          out[i] = (row_h_scale + h_scales[i]) * d[i] + scale * v[i];
          u[i] = d[i] * h[i] + v[i] * x[i];
          d[i] = v[i];
        }
        column_d[i] += d[i];
        column_dx[i] += u[i];
      }
      store_image<T>(p.out, at, here, out);
      const i64 to = (sample * p.inner_blocks + inner_block) * p.outer + row;
      sum_row(p.shift_sums[kOuter], to, in_row, d);
      sum_row(p.scale_sums[kOuter], to, in_row, u);
    }
  }
  if constexpr (K > 0) {
    __shared__ ColumnSums<acc_t, V, kModulateLanes> shared;
    const i64 to = (sample * p.outer_blocks + outer_block) * p.inner + column;
    sum_columns(shared, p.shift_sums[kInner], to, inside, column_d);
    sum_columns(shared, p.scale_sums[kInner], to, inside, column_dx);
  }
}

}  // namespace gk
