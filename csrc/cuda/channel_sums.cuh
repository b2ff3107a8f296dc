// Sums and moments over each channel, for the normalisations. A block has threadIdx.x over channels and threadIdx.y
// over their elements; it is a whole number of warps and at most kMostWarps of them.
#pragma once
#include "launch.h"

namespace gk {

constexpr int kMostWarps = 8;

__device__ __forceinline__ int thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int threads_of_block() { return blockDim.y * blockDim.x; }

// N sums over the threads that are equal modulo `width`, a power of two of at most kWidth, itself at most 32. For
// shared memory; the order of a sum depends on the size of the block alone.
template <typename acc_t, int N, int kWidth>
struct ColumnSums {
  acc_t part[N][(kMostWarps + 1) * kWidth];  // one column more: the N sums of a column start in different banks

  __device__ __forceinline__ void put(acc_t (&values)[N], int width) {
    const int thread = thread_of_block(), lane = thread % 32;
    for (int apart = 16; apart >= width; apart /= 2) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] += __shfl_xor_sync(0xffffffffu, values[i], apart);
    }
    __syncthreads();  // what the last call left has been read
    if (lane < width) {
#pragma unroll
      for (int i = 0; i < N; ++i) part[i][thread / 32 * width + lane] = values[i];
    }
    __syncthreads();
  }
  __device__ __forceinline__ acc_t total(int i, int column, int width) const {
    acc_t sum = part[i][column];
    for (int warp = 1; warp < threads_of_block() / 32; ++warp) sum += part[i][warp * width + column];
    return sum;
  }
};

// Count, means and sums of squared deviations of N sequences side by side (Welford 1962).
template <typename acc_t, int N>
struct Moments {
  acc_t count, mean[N], squares[N];

  __device__ __forceinline__ Moments() : count(0) {
#pragma unroll
    for (int i = 0; i < N; ++i) mean[i] = squares[i] = 0;
  }
  __device__ __forceinline__ void add(const acc_t (&x)[N]) {
    count += 1;
    const acc_t share = 1 / count;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const acc_t off = x[i] - mean[i];
      mean[i] += off * share;
      squares[i] += off * (x[i] - mean[i]);
    }
  }
  // All N as one sequence.
  __device__ __forceinline__ Moments<acc_t, 1> together() const {
    Moments<acc_t, 1> out;
    out.count = N * count;
#pragma unroll
    for (int i = 0; i < N; ++i) out.mean[0] += mean[i] / N;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const acc_t off = mean[i] - out.mean[0];
      out.squares[0] += squares[i] + count * off * off;
    }
    return out;
  }
};

// The moments of a column of the block, of `count` elements together: every thread gets its column's mean, and
// sums.total(i, ..) is then the sum of squares.
template <typename acc_t, int N, int kWidth>
__device__ __forceinline__ void merge_moments(const Moments<acc_t, N>& own, acc_t count, int width,
                                              ColumnSums<acc_t, N, kWidth>& sums, acc_t (&mean)[N]) {
  acc_t values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = own.count * own.mean[i];
  sums.put(values, width);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    mean[i] = sums.total(i, thread_of_block() % width, width) / count;
    const acc_t off = own.mean[i] - mean[i];
    values[i] = own.squares[i] + own.count * off * off;
  }
  sums.put(values, width);
}

}  // namespace gk
