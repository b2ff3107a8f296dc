// Sums over samples, and scalings of them.
#pragma once
#include "pack.cuh"
#include "per_sample_params.h"

namespace gk {

template <typename acc_t>
__device__ __forceinline__ acc_t inverse_norm(acc_t norm) {
  return norm == 0 ? acc_t(0) : acc_t(1) / norm;
}

// Products of different numbers cancel: they are summed in double.
template <typename T, bool Squares>
struct PerSampleTotal {
  using type = double;
};
template <typename T>
struct PerSampleTotal<T, true> {
  using type = acc_of<T>;
};

// The total over the block, in thread 0.
template <typename total_t>
__device__ __forceinline__ total_t sum_block(total_t value) {
  __shared__ total_t shared[kPerSampleThreads];
  shared[threadIdx.x] = value;
  for (int half = kPerSampleThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] = value += shared[threadIdx.x + half];
  }
  return value;
}

template <typename T, typename total_t>
__device__ __forceinline__ void store_sum(const PerSampleSumParams& p, i64 sample, total_t total) {
  using acc_t = acc_of<T>;
  total *= static_cast<total_t>(p.factor);
  if (p.root) total = sqrt(total);
  if (p.over) total *= inverse_norm<total_t>(static_cast<const acc_t*>(p.over)[sample]);
  static_cast<acc_t*>(p.out)[sample] = static_cast<acc_t>(total);
}

template <typename T, bool Squares>
__global__ void __launch_bounds__(kPerSampleThreads, Squares ? 4 : 3)
    per_sample_sums(const __grid_constant__ PerSampleSumParams p) {
  using acc_t = acc_of<T>;
  using total_t = typename PerSampleTotal<T, Squares>::type;
  constexpr int V = kPack<T>;
  const i64 sample = p.splits.quotient(blockIdx.x), split = blockIdx.x - sample * p.splits.by;
  const i64 begin = split * p.share, end = begin + p.share < p.length ? begin + p.share : p.length;
  const T *a = static_cast<const T*>(p.a) + sample * p.length, *b = static_cast<const T*>(p.b) + sample * p.length;
  total_t total = 0;
  const i64 step = p.vector ? 1 : kPerSampleThreads;
#pragma unroll 2
  for (i64 first = begin + threadIdx.x * (p.vector ? V : 1); first < end; first += V * kPerSampleThreads) {
    acc_t left[V], right[V];
    load_pack(a, first, step, end, p.vector, left);
    if constexpr (!Squares) load_pack(b, first, step, end, p.vector, right);
#pragma unroll
    for (int i = 0; i < V; ++i)
      total += static_cast<total_t>(left[i]) * static_cast<total_t>(Squares ? left[i] : right[i]);
  }
  total = sum_block(total);
  if (threadIdx.x) return;
  if (p.splits.by == 1) {
    store_sum<T>(p, sample, total);
  } else {
    static_cast<total_t*>(p.parts)[blockIdx.x] = total;
  }
}

template <typename T, bool Squares>
__global__ void __launch_bounds__(kPerSampleThreads) per_sample_parts(const __grid_constant__ PerSampleSumParams p) {
  using total_t = typename PerSampleTotal<T, Squares>::type;
  const total_t* parts = static_cast<const total_t*>(p.parts) + blockIdx.x * p.splits.by;
  total_t total = 0;
  for (i64 split = threadIdx.x; split < p.splits.by; split += kPerSampleThreads) total += parts[split];
  total = sum_block(total);
  if (threadIdx.x == 0) store_sum<T>(p, blockIdx.x, total);
}

// One pack a thread: neighbours in memory, or where 16-byte accesses are impossible a block's width apart.
template <typename T, bool Vector, bool Second>
__global__ void __launch_bounds__(kPerSampleThreads)
    per_sample_combine(const __grid_constant__ PerSampleCombineParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, kStep = Vector ? 1 : kPerSampleThreads;
  const i64 sample = p.tiles.quotient(blockIdx.x), tile = blockIdx.x - sample * p.tiles.by, base = sample * p.length;
  const i64 first = tile * (V * kPerSampleThreads) + threadIdx.x * (Vector ? V : 1);
  if (first >= p.length) return;
  acc_t value[V];
  load_pack(static_cast<const T*>(p.x) + base, first, kStep, p.length, Vector, value);
  acc_t scale = static_cast<const acc_t*>(p.f)[sample] * static_cast<acc_t>(p.factor);
  acc_t inverse = 1;
  if (p.norm) inverse = inverse_norm(static_cast<const acc_t*>(p.norm)[sample]);
  scale *= inverse;
  if constexpr (Second) {
    acc_t v[V];
    load_pack(static_cast<const T*>(p.v) + base, first, kStep, p.length, Vector, v);
    const acc_t back = static_cast<const acc_t*>(p.along)[sample] * inverse;
#pragma unroll
    for (int i = 0; i < V; ++i) value[i] = v[i] - value[i] * back;
  }
#pragma unroll
  for (int i = 0; i < V; ++i) value[i] *= scale;
  T* out = static_cast<T*>(p.out) + base;
  if constexpr (Vector) {
    store_16_bytes(out + first, value);
  } else {
    store_pack(out, first, kStep, p.length, false, value);
  }
}

}  // namespace gk
