// batch_norm_act's kernels: sums over each cell by blocks, then the values, for which each block adds up the sums of
// its own cells. Where cells share statistics but not weights, a small kernel between the two adds up theirs. Moments
// are those of x less its first element of the channel, so that a large mean costs nothing.
#pragma once
#include "batch_norm_act_parts.cuh"
#include "batch_norm_act_pixels.cuh"
#include "batch_norm_act_sets.cuh"
#include "channel_sums.cuh"

namespace gk {

// The moments of a split of the rows of each channel: sums[0] its mean over the first element, sums[1] its squares.
template <typename T, int L>
__device__ __forceinline__ void reduce_moments(const BatchNormActParams& p) {
  using acc_t = acc_of<T>;
  using Walk = NormWalk<T, kNormForward, L>;
  constexpr int W = Walk::kWidth, M = Walk::kMine, kRounds = 4;
  const Walk walk(p, p.rows_a_split);
  const int thread = thread_of_block();
  __shared__ acc_t shifts[1][Walk::kColumns];
  if (thread < walk.columns && walk.first + thread < p.channels)
    shifts[0][thread] = widen(first_of<T>(p, blockIdx.z, walk.first + thread));
  __syncthreads();
  acc_t shift[1][M];
  own_factors(shifts, walk.column, walk.end > 0, shift);
  Moments<acc_t, W> moments;
  for (i64 row = walk.row; row < walk.end; row += kRounds * walk.step) {
    const NormPacks<T, kNormForward, L, kRounds> packs(p, walk, row);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (packs.at[r] < 0) continue;
      acc_t x[W];
      widen<T, W>(packs.x[r], x);
#pragma unroll
      for (int i = 0; i < W; ++i) x[i] -= shift[0][i % M];
      moments.add(x);
    }
  }
  __shared__ ColumnSums<acc_t, M, Walk::kLanes> sums;
  acc_t mean[M];
  const acc_t count = static_cast<acc_t>(rows_of_split(p, p.rows, blockIdx.y));
  if constexpr (L == kNormRows) {
    merge_moments(moments.together(), count, blockDim.x, sums, mean);
  } else {
    merge_moments(moments, count, blockDim.x, sums, mean);
  }
  if (threadIdx.y == 0) {
#pragma unroll
    for (int m = 0; m < M; ++m) shifts[0][walk.column + m] = mean[m];
  }
  __syncthreads();
  if (thread >= walk.columns || walk.first + thread >= p.channels) return;
  const i64 channel = walk.first + thread;
  sums_of<acc_t>(p, 0, p.groups, blockIdx.z, blockIdx.y)[channel] = shifts[0][thread];
  sums_of<acc_t>(p, 1, p.groups, blockIdx.z, blockIdx.y)[channel] = sums.total(thread % M, thread / M, blockDim.x);
}

// The sums of a derivative over a split of the rows of each channel. With given statistics they are two, the gradients
// of bias and of weight / r, and what is asked for a pixel needs none of them: it is written at once.
template <typename T, int P, int L>
__device__ __forceinline__ void reduce_terms(const BatchNormActParams& p) {
  using acc_t = acc_of<T>;
  using Walk = NormWalk<T, P, L>;
  constexpr int W = Walk::kWidth, M = Walk::kMine,
                kRounds = L == kNormSingle                       ? 4
                          : P == kNormBackward && L == kNormRows ? 2
                                                                 : 1;
  constexpr int kTerms = kNormSums<P>;
  const Walk walk(p, p.rows_a_split);
  const int thread = thread_of_block();
  constexpr int kFactors = P == kNormSecond ? 5 : 3;
  __shared__ acc_t factors[kFactors][Walk::kColumns];
  if (thread < walk.columns && walk.first + thread < p.channels) {
    const i64 channel = walk.first + thread;
    given_factors<T>(p, channel, factors, thread);
    if constexpr (P == kNormSecond) {
      factors[3][thread] = number_of<T>(p.p, cell_of(p, channel), 0) * number_of<T>(p.spread, set_of(p, channel), 1);
      factors[4][thread] = number_of<T>(p.q, cell_of(p, channel), 0);
    }
  }
  __syncthreads();
  acc_t f[kFactors][M], total[kTerms * M];
  own_factors(factors, walk.column, walk.end > 0, f);
#pragma unroll
  for (int i = 0; i < kTerms * M; ++i) total[i] = 0;
  for (i64 row = walk.row; row < walk.end; row += kRounds * walk.step) {
    const NormPacks<T, P, L, kRounds> packs(p, walk, row);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (packs.at[r] < 0) continue;
      acc_t x[W], g[W], v[W], low[W], high[W];
      widen<T, W>(packs.x[r], x);
      widen<T, W>(packs.g[r], g);
      norm_derivatives<T, P>(p, f, x, low, high);
#pragma unroll
      for (int i = 0; i < W; ++i) v[i] = 0;
      if constexpr (P == kNormSecond) {
        if (p.v) widen<T, W>(packs.v[r], v);
      }
#pragma unroll
      for (int i = 0; i < W; ++i) {
        const int m = i % M;
        const acc_t d = g[i] * low[i];
        acc_t terms[kTerms] = {};
        if constexpr (P == kNormBackward) {
          norm_backward_terms(d, x[i], terms);
          low[i] = f[1][m] * d;
        } else if (p.batch_statistics) {
          norm_second_terms<true>(d, g[i] * high[i], v[i], x[i], terms);
        } else {
          const acc_t t = f[1][m] * v[i] + f[3][m] * x[i] + f[4][m], ht = g[i] * high[i] * t;
          terms[0] = ht;
          terms[1] = ht * x[i] + d * v[i];
          low[i] *= t;
          high[i] = f[1][m] * ht + f[3][m] * d;
        }
#pragma unroll
        for (int k = 0; k < kTerms; ++k) total[k * M + m] += terms[k];
      }
      if (p.batch_statistics) continue;
      if (p.out[0]) store_whole<T, W>(static_cast<T*>(p.out[0]) + packs.at[r], low);
      if (P == kNormSecond && p.out[1]) store_whole<T, W>(static_cast<T*>(p.out[1]) + packs.at[r], high);
    }
  }
  __shared__ ColumnSums<acc_t, kTerms * M, Walk::kLanes> sums;
  sums.put(total, blockDim.x);
  const int terms = p.batch_statistics ? kTerms : kNormBackwardSums;
  for (int item = thread; item < terms * walk.columns; item += threads_of_block()) {
    const int term = item / walk.columns, column = item % walk.columns;
    const i64 channel = walk.first + column;
    if (channel < p.channels)
      sums_of<acc_t>(p, term, p.groups, blockIdx.z, blockIdx.y)[channel] =
          sums.total(term * M + column % M, column / M, blockDim.x);
  }
}

template <typename T, int P, int L>
__device__ __forceinline__ void reduce(const BatchNormActParams& p) {
  if constexpr (P == kNormForward) {
    reduce_moments<T, L>(p);
  } else {
    reduce_terms<T, P, L>(p);
  }
}

// Without rows (rows_a_block is 0) the gradients of the parameters alone.
template <typename T, int P, int L>
__device__ __forceinline__ void apply(const BatchNormActParams& p) {
  using acc_t = acc_of<T>;
  using Walk = NormWalk<T, P, L>;
  constexpr int W = Walk::kWidth, M = Walk::kMine, F = kNormFactors<P>;
  constexpr int kRounds = L == kNormSingle ? 4 : P == kNormForward ? 2 : 1;
  const Walk walk(p, p.rows_a_block);
  __shared__ acc_t factors[F][Walk::kColumns];
  prepare<T, P>(p, walk.first, walk.columns, factors);
  acc_t f[F][M];
  own_factors(factors, walk.column, walk.end > 0, f);
  for (i64 row = walk.row; row < walk.end; row += kRounds * walk.step) {
    const NormPacks<T, P, L, kRounds> packs(p, walk, row);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (packs.at[r] < 0) continue;
      acc_t x[W], low[W], high[W];
      widen<T, W>(packs.x[r], x);
      norm_derivatives<T, P>(p, f, x, low, high);
      if constexpr (P != kNormForward) {
        acc_t g[W];
        widen<T, W>(packs.g[r], g);
        if constexpr (P == kNormBackward) {
#pragma unroll
          for (int i = 0; i < W; ++i) low[i] = f[1][i % M] * (g[i] * low[i]) + f[3][i % M] * x[i] + f[4][i % M];
        } else {
          acc_t v[W];
#pragma unroll
          for (int i = 0; i < W; ++i) v[i] = 0;
          if (p.v) widen<T, W>(packs.v[r], v);
#pragma unroll
          for (int i = 0; i < W; ++i) {
            const int m = i % M;
            const acc_t t = f[1][m] * v[i] + f[3][m] * x[i] + f[4][m];
            high[i] =
                f[1][m] * (g[i] * high[i]) * t + f[5][m] * (g[i] * low[i]) + f[6][m] * v[i] + f[7][m] * x[i] + f[8][m];
            low[i] *= t;
          }
          if (p.out[1]) store_whole<T, W>(static_cast<T*>(p.out[1]) + packs.at[r], high);
        }
      }
      if (P != kNormSecond || p.out[0]) store_whole<T, W>(static_cast<T*>(p.out[0]) + packs.at[r], low);
    }
  }
}

template <typename T, int P, int L>
__global__ void __launch_bounds__(kNormThreads, 2) batch_norm_act_reduce(const __grid_constant__ BatchNormActParams p) {
  reduce<T, P, L>(p);
}

template <typename T, int P, int L>
__global__ void __launch_bounds__(kNormThreads, 2) batch_norm_act_apply(const __grid_constant__ BatchNormActParams p) {
  apply<T, P, L>(p);
}

// Both in one launch, where a block has the whole of its sets: it reads back the sums that it wrote, and what it has
// read lies in a cache.
template <typename T, int P, int L>
__global__ void __launch_bounds__(kNormThreads, 2) batch_norm_act_whole(const __grid_constant__ BatchNormActParams p) {
  reduce<T, P, L>(p);
  __syncthreads();
  apply<T, P, L>(p);
}

}  // namespace gk
