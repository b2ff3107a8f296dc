// What batch_norm_act's two kernels share: numbers a channel, the walk over packs, the activation.
#pragma once
#include "batch_norm_act.h"
#include "batch_norm_act_params.h"
#include "channel_sums.cuh"
#include "pack.cuh"

namespace gk {

template <typename T>
__device__ __forceinline__ acc_of<T> number_of(const NormChannels& from, i64 channel, acc_of<T> otherwise) {
  if (!from.at) return otherwise;
  return from.narrow ? widen(static_cast<const T*>(from.at)[channel]) : static_cast<const acc_of<T>*>(from.at)[channel];
}
template <typename T>
__device__ __forceinline__ void store_number(const NormChannels& to, i64 channel, acc_of<T> value) {
  if (!to.at) return;
  if (to.narrow) {
    static_cast<T*>(to.at)[channel] = narrow<T>(value);
  } else {
    static_cast<acc_of<T>*>(to.at)[channel] = value;
  }
}

// A cell of this block's group, and where its statistics are.
__device__ __forceinline__ i64 cell_of(const BatchNormActParams& p, i64 channel) {
  return blockIdx.z * p.channels + channel;
}
__device__ __forceinline__ i64 set_of(const BatchNormActParams& p, i64 channel) {
  return p.shared ? channel : cell_of(p, channel);
}
// The sums of a term: those of a group's split, or of a whole.
template <typename acc_t>
__device__ __forceinline__ acc_t* sums_of(const BatchNormActParams& p, int term, i64 groups, i64 group, i64 split) {
  return static_cast<acc_t*>(p.sums) + ((term * groups + group) * p.splits + split) * p.channels;
}

// The first element of a cell.
template <typename T>
__device__ __forceinline__ T first_of(const BatchNormActParams& p, i64 group, i64 channel) {
  return static_cast<const T*>(p.x)[group * p.rows * p.channels + channel * p.inner.by];
}

// Where a thread's packs lie, and the channels of its block.
template <typename T, int P, int L>
struct NormWalk {
  static constexpr int kWidth = norm_pack(P, L, sizeof(T)), kMine = L == kNormChannels ? kWidth : 1;
  static constexpr int kRowsAPack = L == kNormRows ? kWidth : 1;
  static constexpr int kLanes = kNormLanes[L];
  static constexpr int kColumns = kLanes * kMine;
  i64 first, row, end, step;
  int columns, column;  // channels of the block, and of the thread its own first one

  __device__ __forceinline__ NormWalk(const BatchNormActParams& p, i64 rows_a_block) {
    columns = blockDim.x * kMine;
    column = threadIdx.x * kMine;
    first = static_cast<i64>(blockIdx.x) * columns;
    const i64 group = blockIdx.z * p.rows, beyond = group + p.rows, begin = group + blockIdx.y * rows_a_block;
    end = first + column >= p.channels ? 0 : begin + rows_a_block < beyond ? begin + rows_a_block : beyond;
    row = begin + threadIdx.y * kRowsAPack;
    step = blockDim.y * kRowsAPack;
  }
  __device__ __forceinline__ i64 offset(const BatchNormActParams& p, i64 at) const {
    const i64 channel = first + column;
    if constexpr (L == kNormChannels) {
      return at * p.channels + channel;
    } else {
      const i64 outer = p.inner.quotient(at);
      return (outer * p.channels + channel) * p.inner.by + (at - outer * p.inner.by);
    }
  }
};

// kRounds packs of the tensors that a pass reads, all under way at once.
template <typename T, int P, int L, int kRounds>
struct NormPacks {
  using Walk = NormWalk<T, P, L>;
  static constexpr int W = Walk::kWidth;
  Pack<T, W> x[kRounds], g[kRounds], v[kRounds];
  i64 at[kRounds];  // negative beyond the end

  __device__ __forceinline__ NormPacks(const BatchNormActParams& p, const Walk& walk, i64 row) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      at[r] = row + r * walk.step < walk.end ? walk.offset(p, row + r * walk.step) : -1;
      if (at[r] < 0) continue;
      x[r] = load_whole<T, W>(static_cast<const T*>(p.x) + at[r]);
      if constexpr (P != kNormForward) g[r] = load_whole<T, W>(static_cast<const T*>(p.g) + at[r]);
      if constexpr (P == kNormSecond) {
        if (p.v) v[r] = load_whole<T, W>(static_cast<const T*>(p.v) + at[r]);
      }
    }
  }
};

template <typename acc_t>
__device__ __forceinline__ acc_t alpha_of(const BatchNormActParams& p) {
  return sizeof(acc_t) == 8 ? static_cast<acc_t>(p.wide_alpha) : static_cast<acc_t>(p.alpha);
}
template <typename acc_t>
__device__ __forceinline__ acc_t gain_of(const BatchNormActParams& p) {
  return sizeof(acc_t) == 8 ? static_cast<acc_t>(p.wide_gain) : static_cast<acc_t>(p.gain);
}

template <Act A, int K, typename acc_t, int W>
__device__ __forceinline__ void derive(const acc_t (&u)[W], acc_t alpha, acc_t gain, acc_t (&to)[W]) {
#pragma unroll
  for (int i = 0; i < W; ++i) to[i] = gain * act_derivative<A, K>(u[i], alpha);
}

// low and high: the derivatives of order K and K + 1 (where kBoth) of gain * act; every thread takes the same branch.
template <int K, bool kBoth, typename acc_t, int W>
__device__ __forceinline__ void activate(const BatchNormActParams& p, const acc_t (&u)[W], acc_t (&low)[W],
                                         acc_t (&high)[W]) {
  const acc_t alpha = alpha_of<acc_t>(p), gain = gain_of<acc_t>(p);
#define GK_CASE(name)                                                                \
  case Act::name:                                                                    \
    derive<Act::name, K>(u, alpha, gain, low);                                       \
    if constexpr (kBoth) derive<Act::name, kBoth ? K + 1 : K>(u, alpha, gain, high); \
    break;
  switch (static_cast<Act>(p.act)) { GK_EACH_ACT(GK_CASE) }
#undef GK_CASE
}

// Factors of a channel: mean, weight / deviation, bias; then those of the pass, in the order of norm_values.
template <int P>
constexpr int kNormFactors = P == kNormForward    ? 3
                             : P == kNormBackward ? 5
                                                  : 9;
template <int P>
constexpr int kNormSums = P == kNormSecond ? kNormSecondSums : kNormBackwardSums;

// One pack: x - mean, and what the activation's argument gives.
template <typename T, int P, int W, int M, int F>
__device__ __forceinline__ void norm_derivatives(const BatchNormActParams& p, const acc_of<T> (&f)[F][M],
                                                 acc_of<T> (&x)[W], acc_of<T> (&low)[W], acc_of<T> (&high)[W]) {
  acc_of<T> u[W];
#pragma unroll
  for (int i = 0; i < W; ++i) {
    x[i] -= f[0][i % M];
    u[i] = x[i] * f[1][i % M] + f[2][i % M];
  }
  activate<P == kNormForward ? 0 : 1, P == kNormSecond>(p, u, low, high);
}

template <typename acc_t, int F, int M, int kColumns>
__device__ __forceinline__ void own_factors(const acc_t (&all)[F][kColumns], int column, bool inside,
                                            acc_t (&own)[F][M]) {
#pragma unroll
  for (int j = 0; j < F; ++j)
#pragma unroll
    for (int m = 0; m < M; ++m) own[j][m] = inside ? all[j][column + m] : 0;
}

// The first three factors of a channel with given statistics.
template <typename T, int F, int kColumns>
__device__ __forceinline__ void given_factors(const BatchNormActParams& p, i64 channel, acc_of<T> (&all)[F][kColumns],
                                              int column) {
  const i64 cell = cell_of(p, channel), set = set_of(p, channel);
  all[0][column] = number_of<T>(p.mean, set, 0);
  all[1][column] = number_of<T>(p.weight, cell, 1) * number_of<T>(p.spread, set, 1);
  all[2][column] = number_of<T>(p.bias, cell, 0);
}

__device__ __forceinline__ i64 rows_of_split(const BatchNormActParams& p, i64 rows, i64 split) {
  const i64 left = rows - split * p.rows_a_split;
  return left < p.rows_a_split ? left : p.rows_a_split;
}

}  // namespace gk
