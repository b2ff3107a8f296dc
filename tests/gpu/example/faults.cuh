// One kernel a fault; with Bug it must be reported, without it must run. Blocks of 128 threads, `size` elements.
#pragma once
#include "launch.h"

namespace gk {

struct FaultParams {
  const float* x;
  float* out;
  int* counter;
  i64 size;
};

__device__ inline i64 element() { return static_cast<i64>(blockIdx.x) * 128 + threadIdx.x; }

template <bool Bug>
__global__ void out_of_bounds(const __grid_constant__ FaultParams p) {
  const i64 i = element();
  if (Bug || i < p.size) p.out[i] = 1;
}

// Reads one element beyond a row of a view whose storage goes on.
template <bool Bug>
__global__ void out_of_view(const __grid_constant__ FaultParams p) {
  const i64 i = element();
  if (i < p.size) p.out[i] = p.x[i + (Bug ? 1 : 0)];
}

template <bool Bug>
__global__ void shared_out_of_bounds(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  s[threadIdx.x] = 1;
  __syncthreads();
  if (element() < p.size) p.out[element()] = s[threadIdx.x + (Bug ? 1 : 0)];
}

template <bool Bug>
__global__ void misaligned(const __grid_constant__ FaultParams p) {
  if (element() == 0) *reinterpret_cast<float2*>(p.out + (Bug ? 1 : 2)) = make_float2(1, 2);
}

template <bool Bug>
__global__ void uninitialised(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  if (!Bug || threadIdx.x != 77) s[threadIdx.x] = 1;
  __syncthreads();
  if (element() < p.size) p.out[element()] = s[127 - threadIdx.x];
}

template <bool Bug>
__global__ void partial_barrier(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  s[threadIdx.x] = 1;
  if (!Bug || threadIdx.x < 64) __syncthreads();
  if (element() < p.size) p.out[element()] = s[threadIdx.x];
}

// Threads leave before the barrier that the others reach.
template <bool Bug>
__global__ void early_exit(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  const bool inside = element() < p.size;
  if (Bug && !inside) return;
  s[threadIdx.x] = inside ? p.x[element()] : 0;
  __syncthreads();
  if (inside) p.out[element()] = s[0];
}

// Each half of the block waits at a barrier of its own.
template <bool Bug>
__global__ void two_barriers(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  s[threadIdx.x] = 1;
  if (Bug && threadIdx.x < 64) {
    s[threadIdx.x] += 1;
    asm volatile("bar.sync 0;");
    s[threadIdx.x] += 2;
  } else {
    asm volatile("bar.sync 0;");
  }
  if (element() < p.size) p.out[element()] = s[127 - threadIdx.x];
}

template <bool Bug>
__global__ void inactive_lane(const __grid_constant__ FaultParams p) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v += __shfl_down_sync(Bug ? 0xffffffffu : 0xffffu, v, 1, 16);
  if (element() < p.size) p.out[element()] = v;
}

template <bool Bug>
__global__ void shared_race(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  s[threadIdx.x] = threadIdx.x;
  if (!Bug) __syncthreads();
  if (element() < p.size) p.out[element()] = s[127 - threadIdx.x];
}

// A second round overwrites what others may still read.
template <bool Bug>
__global__ void shared_write_after_read(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    s[threadIdx.x] = round;
    __syncthreads();
    sum += s[127 - threadIdx.x];
    if (!Bug) __syncthreads();
  }
  if (element() < p.size) p.out[element()] = sum;
}

// Within one warp: lanes are threads of their own.
template <bool Bug>
__global__ void warp_race(const __grid_constant__ FaultParams p) {
  __shared__ float s[128];
  s[threadIdx.x] = threadIdx.x;
  if (!Bug) __syncwarp();
  if (element() < p.size) p.out[element()] = s[threadIdx.x ^ 1];
}

template <bool Bug>
__global__ void block_race(const __grid_constant__ FaultParams p) {
  if (threadIdx.x == 0) {
    if (Bug) {
      p.out[0] = blockIdx.x;
    } else {
      p.out[blockIdx.x] = blockIdx.x;
    }
  }
}

// The last block to arrive sums what all wrote: right only if each publishes before it counts itself.
template <bool Bug>
__global__ void last_block(const __grid_constant__ FaultParams p) {
  __shared__ int arrived;
  if (threadIdx.x == 0) {
    p.out[blockIdx.x] = blockIdx.x + 1;
    if (!Bug) __threadfence();
    arrived = atomicAdd(p.counter, 1);
  }
  __syncthreads();
  if (arrived == gridDim.x - 1 && threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < gridDim.x; ++i) sum += p.out[i];
    p.out[p.size - 1] = sum;
  }
}

template <bool Bug>
__global__ void global_race(const __grid_constant__ FaultParams p) {
  const i64 i = element(), other = i - threadIdx.x + (127 - threadIdx.x);
  if (i < p.size) p.out[i] = threadIdx.x;
  if (!Bug) __syncthreads();
  if (other < p.size && i < p.size) p.out[other] += 1;
}

// Several threads store different values to one place.
template <bool Bug>
__global__ void write_clash(const __grid_constant__ FaultParams p) {
  if (blockIdx.x == 0 && threadIdx.x < 32) p.out[Bug ? 0 : threadIdx.x] = threadIdx.x;
}

template <bool Bug>
__global__ void early_copy(const __grid_constant__ FaultParams p) {
  __shared__ __align__(16) float s[128];
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(s + threadIdx.x));
  const i64 i = element() < p.size ? element() : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;" ::"r"(to), "l"(p.x + i) : "memory");
  if (!Bug) asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  if (element() < p.size) p.out[element()] = s[127 - threadIdx.x];
}

}  // namespace gk
