// Between batch_norm_act's sums and its values: statistics, and the factors of cells from the sums of their sets.
#pragma once
#include "batch_norm_act_parts.cuh"
#include "channel_sums.cuh"

namespace gk {

// The mean over the first element and the sum of squares of a column's channel, the latter for threads of the first
// `columns` alone.
template <typename acc_t, int kColumns>
__device__ __forceinline__ void moments_of_splits(const BatchNormActParams& p, i64 channel, int columns, acc_t& mean,
                                                  acc_t& squares) {
  const i64 rows = p.shared ? p.rows * p.groups : p.rows, groups = p.shared ? 1 : p.groups;
  __shared__ ColumnSums<acc_t, 1, kColumns> shared;
  const int thread = thread_of_block(), column = thread % columns;
  const acc_t* means = sums_of<const acc_t>(p, 0, groups, p.shared ? 0 : blockIdx.z, 0) + channel;
  const acc_t* spreads = means + groups * p.splits * p.channels;
  const int from = channel < p.channels ? thread / columns : p.splits, by = threads_of_block() / columns;
  acc_t value[1] = {0};
  for (int s = from; s < p.splits; s += by)
    value[0] += static_cast<acc_t>(rows_of_split(p, rows, s)) * means[s * p.channels];
  shared.put(value, columns);
  mean = shared.total(0, column, columns) / static_cast<acc_t>(rows);
  value[0] = 0;
  for (int s = from; s < p.splits; s += by) {
    const acc_t off = means[s * p.channels] - mean;
    value[0] += spreads[s * p.channels] + static_cast<acc_t>(rows_of_split(p, rows, s)) * off * off;
  }
  shared.put(value, columns);
  squares = shared.total(0, column, columns);
}

// The mean and 1 / deviation of a column's channel, where it is this thread's; the first blocks write them.
template <typename T, int kColumns>
__device__ __forceinline__ void statistics_of(const BatchNormActParams& p, i64 channel, int columns, bool mine,
                                              acc_of<T>& mean, acc_of<T>& invstd) {
  using acc_t = acc_of<T>;
  acc_t off = 0, squares = 0;
  if (p.sums) moments_of_splits<acc_t, kColumns>(p, channel, columns, off, squares);
  if (!mine) return;
  const i64 set = set_of(p, channel);
  const acc_t count = static_cast<acc_t>(p.shared ? p.rows * p.groups : p.rows);
  acc_t biased = number_of<T>(p.spread, set, 0), unbiased = biased;
  mean = number_of<T>(p.mean, set, 0);
  if (p.sums) {
    mean = widen(first_of<T>(p, p.shared ? 0 : blockIdx.z, channel)) + off;
    biased = squares / count;
    unbiased = squares / (count - 1);
  }
  invstd = 1 / sqrt(biased + static_cast<acc_t>(p.eps));
  if (blockIdx.y || (p.shared && blockIdx.z)) return;
  static_cast<acc_t*>(p.batch_mean)[set] = mean;
  static_cast<acc_t*>(p.invstd)[set] = invstd;
  if (p.variance) static_cast<acc_t*>(p.variance)[set] = unbiased;
}

template <typename acc_t, int N, int kColumns>
__device__ __forceinline__ void sums_of_splits(const BatchNormActParams& p, i64 channel, int columns, acc_t (&to)[N]) {
  __shared__ ColumnSums<acc_t, N, kColumns> shared;
  const int thread = thread_of_block(), column = thread % columns;
  acc_t values[N];
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = 0;
  for (int s = thread / columns; channel < p.channels && s < p.splits; s += threads_of_block() / columns) {
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] += sums_of<const acc_t>(p, k, p.groups, blockIdx.z, s)[channel];
  }
  shared.put(values, columns);
#pragma unroll
  for (int k = 0; k < N; ++k) to[k] = shared.total(k, column, columns);
}

// The factors of every channel of the block to shared memory; the blocks of the first rows write what else there is a
// channel.
template <typename T, int P, int F, int kColumns>
__device__ __forceinline__ void prepare(const BatchNormActParams& p, i64 first, int columns,
                                        acc_of<T> (&all)[F][kColumns]) {
  using acc_t = acc_of<T>;
  const int thread = thread_of_block(), column = thread % columns;
  const i64 channel = first + column;
  const bool mine = thread < columns && channel < p.channels, outputs = blockIdx.y == 0;
  const i64 cell = cell_of(p, channel), set = set_of(p, channel);
  if constexpr (P == kNormForward) {
    acc_t mean, invstd;
    statistics_of<T, kColumns>(p, channel, columns, mine, mean, invstd);
    if (mine) {
      all[0][column] = mean;
      all[1][column] = number_of<T>(p.weight, cell, 1) * invstd;
      all[2][column] = number_of<T>(p.bias, cell, 0);
    }
  } else {
    acc_t sums[kNormSums<P>] = {};
    if (p.sums && !p.totals) sums_of_splits<acc_t, kNormSums<P>, kColumns>(p, channel, columns, sums);
    if (mine) {
      given_factors<T>(p, channel, all, column);
      const acc_t over = share_of_set(static_cast<acc_t>(p.rows), p.batch_statistics);
      const acc_t weight = number_of<T>(p.weight, cell, 1), r = number_of<T>(p.spread, set, 1);
      const acc_t* totals = static_cast<const acc_t*>(p.totals) + channel;
      acc_t grad_weight = 0, grad_bias = 0;
      if constexpr (P == kNormBackward) {
        NormBackward<acc_t> k;
        if (p.totals) {
          k.mean = totals[0], k.slope = totals[p.channels];
        } else {
          k.add(sums, weight);
          k.close(over, r);
        }
        all[3][column] = k.on_x(r), all[4][column] = k.constant(r);
        grad_weight = r * sums[1], grad_bias = sums[0];
      } else {
        const acc_t p_ = number_of<T>(p.p, cell, 0), q = number_of<T>(p.q, cell, 0);
        NormSecond<acc_t> k;
        acc_t on_v, on_x, constant;
        if (p.totals) {
          k.v_mean = totals[0], k.v_slope = totals[p.channels];
        } else {
          k.add(sums, weight, p_);
          k.close(over, r);
        }
        const NormSecondCell<acc_t> own(k, weight, r, p_, q);
        if (p.totals) {
          on_v = totals[2 * p.channels], on_x = totals[3 * p.channels], constant = totals[4 * p.channels];
        } else {
          own.add_to(k, sums, weight, over, r);
          on_v = k.on_v(r), on_x = k.on_x(r), constant = k.constant(r);
          grad_weight = own.weight_grad(k, sums, r), grad_bias = own.bias_grad(sums);
        }
        all[3][column] = own.t_on_x, all[4][column] = own.t_constant;
        all[5][column] = own.t_on_x, all[6][column] = on_v;
        all[7][column] = on_x, all[8][column] = constant;
      }
      if (outputs && !p.totals) {
        store_number<T>(p.grad_weight, cell, grad_weight);
        store_number<T>(p.grad_bias, cell, grad_bias);
      }
    }
  }
  __syncthreads();
}

template <typename acc_t, int N>
__device__ __forceinline__ void sums_of_cell(const BatchNormActParams& p, i64 group, i64 channel, acc_t (&to)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    to[k] = 0;
    for (i64 s = 0; s < p.splits; ++s) to[k] += sums_of<const acc_t>(p, k, p.groups, group, s)[channel];
  }
}

// A thread adds up a channel's cells to `totals`, and writes the gradients of their weights and biases.
template <typename T, int P>
__global__ void __launch_bounds__(kNormThreads) batch_norm_act_combine(const __grid_constant__ BatchNormActParams p) {
  using acc_t = acc_of<T>;
  const i64 channel = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (channel >= p.channels) return;
  const acc_t r = number_of<T>(p.spread, channel, 1), over = 1 / static_cast<acc_t>(p.rows * p.groups);
  acc_t sums[kNormSums<P>], *totals = static_cast<acc_t*>(p.totals) + channel;
  if constexpr (P == kNormBackward) {
    NormBackward<acc_t> set;
    for (i64 g = 0; g < p.groups; ++g) {
      const i64 cell = g * p.channels + channel;
      sums_of_cell(p, g, channel, sums);
      set.add(sums, number_of<T>(p.weight, cell, 1));
      store_number<T>(p.grad_weight, cell, r * sums[1]);
      store_number<T>(p.grad_bias, cell, sums[0]);
    }
    set.close(over, r);
    totals[0] = set.mean, totals[p.channels] = set.slope;
  } else {
    NormSecond<acc_t> set;
    for (i64 g = 0; g < p.groups; ++g) {
      const i64 cell = g * p.channels + channel;
      sums_of_cell(p, g, channel, sums);
      set.add(sums, number_of<T>(p.weight, cell, 1), number_of<T>(p.p, cell, 0));
    }
    set.close(over, r);
    for (i64 g = 0; g < p.groups; ++g) {
      const i64 cell = g * p.channels + channel;
      const acc_t weight = number_of<T>(p.weight, cell, 1);
      sums_of_cell(p, g, channel, sums);
      const NormSecondCell<acc_t> own(set, weight, r, number_of<T>(p.p, cell, 0), number_of<T>(p.q, cell, 0));
      own.add_to(set, sums, weight, over, r);
      store_number<T>(p.grad_weight, cell, own.weight_grad(set, sums, r));
      store_number<T>(p.grad_bias, cell, own.bias_grad(sums));
    }
    totals[0] = set.v_mean, totals[p.channels] = set.v_slope, totals[2 * p.channels] = set.on_v(r);
    totals[3 * p.channels] = set.on_x(r), totals[4 * p.channels] = set.constant(r);
  }
}

}  // namespace gk
