// The example's kernels: out = x + scale * y, and the sum of each row.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "scaled_add_params.h"

namespace gk {

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

template <typename T, int V>
__global__ void __launch_bounds__(256) scaled_add(const __grid_constant__ ScaledAddParams p) {
  const i64 first = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
  if (first >= p.size) return;
  const Pack<T, V> x = *reinterpret_cast<const Pack<T, V>*>(static_cast<const T*>(p.x) + first);
  const Pack<T, V> y = *reinterpret_cast<const Pack<T, V>*>(static_cast<const T*>(p.y) + first);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i)
    out.v[i] = static_cast<T>(static_cast<float>(x.v[i]) + p.scale * static_cast<float>(y.v[i]));
  *reinterpret_cast<Pack<T, V>*>(static_cast<T*>(p.out) + first) = out;
}

template <int Threads>
__device__ float block_sum(float value) {
  __shared__ float partial[Threads / 32];
  for (int offset = 16; offset; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (int i = 0; i < Threads / 32; ++i) value += partial[i];
  return value;
}

// One block a row.
template <typename T, int Threads>
__global__ void __launch_bounds__(Threads) row_sum(const __grid_constant__ RowSumParams p) {
  const T* row = static_cast<const T*>(p.x) + blockIdx.x * p.stride;
  float sum = 0;
  for (i64 i = threadIdx.x; i < p.columns; i += Threads) sum += static_cast<float>(row[i]);
  sum = block_sum<Threads>(sum);
  if (threadIdx.x == 0) p.out[blockIdx.x] = sum;
}

}  // namespace gk
