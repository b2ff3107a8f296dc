// batch_norm_act's kernels where weight (1 + scale) and bias are an element's own: statistics of channels, one group.
#pragma once
#include "batch_norm_act_parts.cuh"
#include "batch_norm_act_sets.cuh"

namespace gk {

template <int P>
constexpr int kPixelSums = P == kNormSecond ? kPixelSecondSums : kNormBackwardSums;
// Factors of a channel: mean, 1 / deviation, then those of the pass: on_x and constant, or mean of v, r times its part
// along xh, on_v, on_x, constant.
template <int P>
constexpr int kPixelFactors = P == kNormForward    ? 2
                              : P == kNormBackward ? 4
                                                   : 7;

// A pack at `at`: x - mean, 1 + scale, and the derivatives of the activation.
template <typename T, int P, int W>
struct PixelPack {
  using acc_t = acc_of<T>;
  acc_t x[W], weight[W], g[W], v[W], p[W], q[W], low[W], high[W];

  template <int M, int F>
  __device__ __forceinline__ PixelPack(const BatchNormActParams& params, const acc_t (&f)[F][M], i64 at) {
    acc_t u[W];
    read(params.x, at, x);
    read(params.scale, at, weight);
    read(params.shift, at, u);
    if constexpr (P != kNormForward) read(params.g, at, g);
    if constexpr (P == kNormSecond) read(params.v, at, v), read(params.pixel_p, at, p), read(params.pixel_q, at, q);
#pragma unroll
    for (int i = 0; i < W; ++i) {
      x[i] -= f[0][i % M];
      weight[i] += 1;
      u[i] += weight[i] * (x[i] * f[1][i % M]);
    }
    activate<P == kNormForward ? 0 : 1, P == kNormSecond>(params, u, low, high);
  }
  __device__ __forceinline__ static void read(const void* from, i64 at, acc_t (&to)[W]) {
    if (from) {
      widen<T, W>(load_whole<T, W>(static_cast<const T*>(from) + at), to);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) to[i] = 0;
    }
  }
};

template <typename T, int W>
__device__ __forceinline__ void write_pack(void* to, i64 at, const acc_of<T> (&from)[W]) {
  if (to) store_whole<T, W>(static_cast<T*>(to) + at, from);
}

template <typename T, int P, int L>
__global__ void __launch_bounds__(kNormThreads, 2)
    batch_norm_act_pixels_reduce(const __grid_constant__ BatchNormActParams p) {
  using acc_t = acc_of<T>;
  using Walk = NormWalk<T, kNormSecond, L>;
  constexpr int W = Walk::kWidth, M = Walk::kMine, kTerms = kPixelSums<P>;
  const Walk walk(p, p.rows_a_split);
  const int thread = thread_of_block();
  __shared__ acc_t factors[2][Walk::kColumns];
  if (thread < walk.columns && walk.first + thread < p.channels) {
    factors[0][thread] = number_of<T>(p.mean, walk.first + thread, 0);
    factors[1][thread] = number_of<T>(p.spread, walk.first + thread, 1);
  }
  __syncthreads();
  acc_t f[2][M], total[kTerms * M];
  own_factors(factors, walk.column, walk.end > 0, f);
#pragma unroll
  for (int i = 0; i < kTerms * M; ++i) total[i] = 0;
  for (i64 row = walk.row; row < walk.end; row += walk.step) {
    const PixelPack<T, P, W> e(p, f, walk.offset(p, row));
#pragma unroll
    for (int i = 0; i < W; ++i) {
      acc_t terms[kTerms];
      const acc_t d = e.g[i] * e.low[i];
      if constexpr (P == kNormBackward) {
        norm_backward_terms(e.weight[i] * d, e.x[i], terms);
      } else {
        pixel_second_terms<true>(d, e.g[i] * e.high[i], e.v[i], e.x[i], e.weight[i], e.p[i], e.q[i], f[1][i % M],
                                 terms);
      }
#pragma unroll
      for (int k = 0; k < kTerms; ++k) total[k * M + i % M] += terms[k];
    }
  }
  __shared__ ColumnSums<acc_t, kTerms * M, Walk::kLanes> sums;
  sums.put(total, blockDim.x);
  for (int item = thread; item < kTerms * walk.columns; item += threads_of_block()) {
    const int term = item / walk.columns, column = item % walk.columns;
    if (walk.first + column < p.channels)
      sums_of<acc_t>(p, term, 1, 0, blockIdx.y)[walk.first + column] =
          sums.total(term * M + column % M, column / M, blockDim.x);
  }
}

template <typename T, int P, int F, int kColumns>
__device__ __forceinline__ void prepare_pixels(const BatchNormActParams& p, i64 first, int columns,
                                               acc_of<T> (&all)[F][kColumns]) {
  using acc_t = acc_of<T>;
  const int thread = thread_of_block(), column = thread % columns;
  const i64 channel = first + column;
  const bool mine = thread < columns && channel < p.channels;
  if constexpr (P == kNormForward) {
    acc_t mean, invstd;
    statistics_of<T, kColumns>(p, channel, columns, mine, mean, invstd);
    if (mine) all[0][column] = mean, all[1][column] = invstd;
  } else {
    acc_t sums[kPixelSums<P>] = {};
    if (p.sums) sums_of_splits<acc_t, kPixelSums<P>, kColumns>(p, channel, columns, sums);
    if (mine) {
      const acc_t over = share_of_set(static_cast<acc_t>(p.rows), p.sums != nullptr);
      const acc_t r = number_of<T>(p.spread, channel, 1);
      all[0][column] = number_of<T>(p.mean, channel, 0);
      all[1][column] = r;
      if constexpr (P == kNormBackward) {
        NormBackward<acc_t> k;
        k.add(sums, 1);
        k.close(over, r);
        all[2][column] = k.on_x(r), all[3][column] = k.constant(r);
      } else {
        NormSecond<acc_t> k;
        k.template add_pixels<true>(sums, over, r);
        all[2][column] = k.v_mean, all[3][column] = r * k.v_slope;
        all[4][column] = k.on_v(r), all[5][column] = k.on_x(r), all[6][column] = k.constant(r);
      }
    }
  }
  __syncthreads();
}

template <typename T, int P, int L>
__global__ void __launch_bounds__(kNormThreads, 2)
    batch_norm_act_pixels_apply(const __grid_constant__ BatchNormActParams p) {
  using acc_t = acc_of<T>;
  using Walk = NormWalk<T, kNormSecond, L>;
  constexpr int W = Walk::kWidth, M = Walk::kMine, F = kPixelFactors<P>;
  const Walk walk(p, p.rows_a_block);
  __shared__ acc_t factors[F][Walk::kColumns];
  prepare_pixels<T, P>(p, walk.first, walk.columns, factors);
  acc_t f[F][M];
  own_factors(factors, walk.column, walk.end > 0, f);
  for (i64 row = walk.row; row < walk.end; row += walk.step) {
    const i64 at = walk.offset(p, row);
    PixelPack<T, P, W> e(p, f, at);
    if constexpr (P == kNormForward) {
      store_whole<T, W>(static_cast<T*>(p.out[0]) + at, e.low);
    } else {
      acc_t gx[W], scale_grad[W], shift_grad[W];
#pragma unroll
      for (int i = 0; i < W; ++i) {
        const int m = i % M;
        const acc_t r = f[1][m], xh = r * e.x[i], d = e.g[i] * e.low[i];
        if constexpr (P == kNormBackward) {
          gx[i] = r * e.weight[i] * d + f[2][m] * e.x[i] + f[3][m];
          scale_grad[i] = d * xh;
          shift_grad[i] = d;
        } else {
          const acc_t pv = r * (e.v[i] - f[2][m] - f[3][m] * e.x[i]);
          const acc_t t = e.weight[i] * pv + e.p[i] * xh + e.q[i], ht = e.g[i] * e.high[i] * t;
          gx[i] = r * (e.weight[i] * ht + (e.p[i] - e.weight[i] * f[3][m]) * d) + f[4][m] * e.v[i] + f[5][m] * e.x[i] +
                  f[6][m];
          scale_grad[i] = d * pv + ht * xh;
          shift_grad[i] = ht;
          e.low[i] *= t;
        }
      }
      write_pack<T, W>(p.out[P == kNormSecond ? 1 : 0], at, gx);
      if constexpr (P == kNormSecond) write_pack<T, W>(p.out[0], at, e.low);
      write_pack<T, W>(p.scale_grad, at, scale_grad);
      write_pack<T, W>(p.shift_grad, at, shift_grad);
    }
  }
}

}  // namespace gk
