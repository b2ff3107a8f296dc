// What spectral_norm's kernels share: which weight a block has, sums over it, and its tile of a weight.
#pragma once
#include "pack.cuh"
#include "per_sample.cuh"
#include "spectral_norm_params.h"

namespace gk {

__device__ __forceinline__ const SpectralWeight& spectral_weight(const SpectralParams& p) {
  int i = p.count - 1;
  while (i > 0 && static_cast<i32>(blockIdx.x) < p.weights[i].first) --i;
  return p.weights[i];
}

template <typename T>
__device__ __forceinline__ bool spectral_whole(const void* t, i64 step) {
  return step % kPack<T> == 0 && reinterpret_cast<u64>(t) % 16 == 0;
}

// The total over the block, in every thread.
template <typename total_t>
__device__ __forceinline__ total_t spectral_total(total_t value) {
  __shared__ total_t shared[kSpectralThreads];
  __syncthreads();  // what the last call left has been read
  shared[threadIdx.x] = value;
  for (int half = kSpectralThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  __syncthreads();
  return shared[0];
}

// The sum of what `count` blocks left, in every thread.
template <typename total_t>
__device__ __forceinline__ total_t spectral_parts(const void* parts, i64 first, i32 count) {
  total_t total = 0;
  for (i32 i = threadIdx.x; i < count; i += kSpectralThreads) total += static_cast<const total_t*>(parts)[first + i];
  return spectral_total(total);
}

__device__ __forceinline__ i32 spectral_blocks(i64 n, i64 each) { return static_cast<i32>((n + each - 1) / each); }

template <typename acc_t>
__device__ __forceinline__ acc_t spectral_length(acc_t squares, double eps) {
  const acc_t length = sqrt(squares), least = static_cast<acc_t>(eps);
  return length < least ? least : length;
}

// f(first element, element step, one past the last) for each pack of the block's tile; a pack is V elements.
template <typename T, typename F>
__device__ __forceinline__ void spectral_tile(const SpectralWeight& w, bool whole, F f) {
  const i64 begin = i64(blockIdx.x - w.first) * kSpectralTile, numel = i64(w.rows) * w.cols;
  const i64 end = begin + kSpectralTile < numel ? begin + kSpectralTile : numel;
  for (i64 first = begin + threadIdx.x * (whole ? kPack<T> : 1); first < end; first += kSpectralThreads * kPack<T>)
    f(first, whole ? 1 : kSpectralThreads, end);
}

template <typename T>
__device__ __forceinline__ void spectral_store(T* to, i64 first, i64 step, i64 end, bool whole,
                                               const acc_of<T> (&from)[kPack<T>]) {
  if (whole) {
    store_16_bytes(to + first, from);
  } else {
    store_pack(to, first, step, end, false, from);
  }
}

}  // namespace gk
