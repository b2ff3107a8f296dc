// add_noise's kernels: an image with noise on it, and the sums of an image against noise and strengths.
#pragma once
#include "add_noise_params.h"
#include "block_sums.cuh"

namespace gk {

template <typename acc_t>
__device__ __forceinline__ acc_t factor_of(const AddNoiseParams& p) {
  if constexpr (sizeof(acc_t) == 8) {
    return p.wide_factor;
  } else {
    return p.factor;
  }
}

// V numbers along the inner axis.
template <typename T, int V>
__device__ __forceinline__ void load_line(const AddNoiseParams& p, const NoiseLine& line, i64 sample, i64 at,
                                          bool inside, acc_of<T> (&to)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = factor_of<acc_of<T>>(p);
  if (!line.at || !inside) return;
  const T* from = static_cast<const T*>(line.at) + sample * line.pitch;
  if (line.step) {
    widen<T, V>(load_whole<T, V>(from + at), to);
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] = widen(*from);
  }
}

template <typename T>
__device__ __forceinline__ acc_of<T> of_row(const AddNoiseParams& p, const NoiseLine& line, i64 sample, i64 row) {
  if (!line.at) return factor_of<acc_of<T>>(p);
  return widen(static_cast<const T*>(line.at)[sample * line.pitch + row * line.step]);
}

// Where a block and a thread of it are.
struct NoisePlace {
  i64 sample, inner_block, outer_block, column, begin, end;

  template <int V>
  static __device__ __forceinline__ NoisePlace of(const AddNoiseParams& p) {
    const u32 inner_block = blockIdx.x % p.inner_blocks, rest = blockIdx.x / p.inner_blocks;
    const i64 outer_block = rest % p.outer_blocks, begin = outer_block * p.rows;
    return {rest / p.outer_blocks,
            inner_block,
            outer_block,
            (static_cast<i64>(inner_block) * blockDim.x + threadIdx.x) * V,
            begin,
            begin + p.rows < p.outer ? begin + p.rows : p.outer};
  }
};

template <typename T, int V>
__global__ void __launch_bounds__(kWalkThreads) add_noise_value(const __grid_constant__ AddNoiseParams p) {
  using acc_t = acc_of<T>;
  const NoisePlace place = NoisePlace::of<V>(p);
  if (place.column >= p.inner) return;
  acc_t columns[2][V];
#pragma unroll
  for (int term = 0; term < 2; ++term)
    if (p.terms[term]) load_line<T, V>(p, p.column[term], place.sample, place.column, true, columns[term]);
  for (i64 row = place.begin + threadIdx.y; row < place.end; row += blockDim.y) {
    const i64 at = (place.sample * p.outer + row) * p.inner + place.column;
    acc_t y[V];
#pragma unroll
    for (int i = 0; i < V; ++i) y[i] = 0;
    if (p.x) widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.x) + at), y);
#pragma unroll
    for (int term = 0; term < 2; ++term) {
      if (!p.terms[term]) continue;
      const acc_t own = of_row<T>(p, p.row[term], place.sample, row);
#pragma unroll
      for (int i = 0; i < V; ++i) y[i] += own * columns[term][i];
    }
    store_together<T, V>(static_cast<T*>(p.out) + at, y);
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kWalkThreads) add_noise_sums(const __grid_constant__ AddNoiseParams p) {
  using acc_t = acc_of<T>;
  const NoisePlace place = NoisePlace::of<V>(p);
  const bool inside = place.column < p.inner;
  acc_t columns[V], total[V];
#pragma unroll
  for (int i = 0; i < V; ++i) total[i] = columns[i] = 0;
  if (p.row_sums) load_line<T, V>(p, p.column[0], place.sample, place.column, inside, columns);
  for (i64 start = place.begin; start < place.end;
       start += blockDim.y) {  // as often for all threads: sums are shuffled
    const i64 row = start + threadIdx.y;
    const bool in_row = row < place.end;
    acc_t g[V], product[V];
#pragma unroll
    for (int i = 0; i < V; ++i) g[i] = 0;
    if (in_row && inside)
      widen<T, V>(
          load_whole<T, V>(static_cast<const T*>(p.x) + (place.sample * p.outer + row) * p.inner + place.column), g);
    const acc_t own = p.column_sums && in_row ? of_row<T>(p, p.row[0], place.sample, row) : acc_t(0);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      product[i] = g[i] * columns[i];
      total[i] += own * g[i];
    }
    sum_row(p.row_sums, (place.sample * p.inner_blocks + place.inner_block) * p.outer + row, in_row, product);
  }
  __shared__ ColumnSums<acc_t, V, kWalkLanes> shared;
  const i64 to = (place.sample * p.outer_blocks + place.outer_block) * p.inner + place.column;
  sum_columns(shared, p.column_sums, to, inside, total);
}

}  // namespace gk
