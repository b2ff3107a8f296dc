// The sums of a block that walks along an image's outer axis: of its rows and of its columns, for kernels that leave
// adding up the blocks to others. threadIdx.x lies along the inner axis; blocks are whole warps.
#pragma once
#include "channel_sums.cuh"
#include "together.cuh"

namespace gk {

// The sum of a row's values over the threads of its block; null for `to` is the same for all threads.
template <typename acc_t, int V>
__device__ __forceinline__ void sum_row(void* to, i64 at, bool writes, const acc_t (&values)[V]) {
  if (!to) return;
  acc_t total = values[0];
#pragma unroll
  for (int i = 1; i < V; ++i) total += values[i];
  for (int apart = blockDim.x / 2; apart; apart /= 2) total += __shfl_xor_sync(0xffffffffu, total, apart);
  if (writes && threadIdx.x == 0) static_cast<acc_t*>(to)[at] = total;
}

// The sums of columns over the rows of the block.
template <typename acc_t, int V, int kWidth>
__device__ __forceinline__ void sum_columns(ColumnSums<acc_t, V, kWidth>& shared, void* to, i64 at, bool inside,
                                            acc_t (&values)[V]) {
  if (!to) return;
  shared.put(values, blockDim.x);
  if (!inside || threadIdx.y) return;
  constexpr int W = V == 1 ? 1 : kPack<acc_t>;
#pragma unroll
  for (int first = 0; first < V; first += W) {
    acc_t part[W];
#pragma unroll
    for (int i = 0; i < W; ++i) part[i] = shared.total(first + i, threadIdx.x, blockDim.x);
    store_together<acc_t, W>(static_cast<acc_t*>(to) + at + first, part);
  }
}

}  // namespace gk
