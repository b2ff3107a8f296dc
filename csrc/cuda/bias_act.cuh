// bias_act's kernels: the value or a derivative, elementwise; a derivative with its sum over each channel.
#pragma once
#include "bias_act.h"
#include "bias_act_params.h"
#include "pack.cuh"

namespace gk {

template <typename acc_t>
struct BiasActNumbers {
  acc_t alpha, gain, bound;
};
template <typename acc_t>
__device__ __forceinline__ BiasActNumbers<acc_t> numbers_of(const BiasActParams& p) {
  if constexpr (sizeof(acc_t) == 8) {
    return {p.wide_alpha, p.wide_gain, p.wide_bound};
  } else {
    return {p.alpha, p.gain, p.bound};
  }
}

template <Act A, int K, typename acc_t, int V>
__device__ __forceinline__ void derive(const acc_t (&u)[V], acc_t (&factor)[V], BiasActNumbers<acc_t> n) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if constexpr (K == 0) {
      factor[i] = bias_act_value<A>(u[i], n.alpha, n.gain, n.bound);
    } else {
      factor[i] = bias_act_derivative<A, K>(factor[i], u[i], n.alpha, n.gain, n.bound);
    }
  }
}

template <Act A, int K, typename acc_t, int V>
__device__ __forceinline__ void derive_from_output(const acc_t (&y)[V], acc_t (&factor)[V], BiasActNumbers<acc_t> n) {
#pragma unroll
  for (int i = 0; i < V; ++i) factor[i] *= slope_of_output<A, K>(y[i], n.alpha, n.gain);
}

// factor becomes the result; every thread takes the same branch.
template <int K, typename acc_t, int V>
__device__ __forceinline__ void apply(const BiasActParams& p, const acc_t (&u)[V], acc_t (&factor)[V]) {
  const BiasActNumbers<acc_t> n = numbers_of<acc_t>(p);
#define GK_CASE(name) \
  case Act::name:     \
    return derive<Act::name, K>(u, factor, n);
#define GK_OUTPUT_CASE(name) \
  case Act::name:            \
    return derive_from_output<Act::name, K>(u, factor, n);
  if constexpr (K > 0) {
    if (p.x_is_output) {
      switch (static_cast<Act>(p.act)) {
        GK_OUTPUT_CASE(relu)
        GK_OUTPUT_CASE(lrelu)
        GK_OUTPUT_CASE(tanh)
        default:
          return derive_from_output<Act::sigmoid, K>(u, factor, n);
      }
    }
  }
  switch (static_cast<Act>(p.act)) { GK_EACH_ACT(GK_CASE) }
#undef GK_CASE
#undef GK_OUTPUT_CASE
}

// u = x + bias and factor = (g + g_bias) h of one pack.
template <int K, typename T>
__device__ __forceinline__ void load_operands(const BiasActParams& p, i64 first, i64 step, i64 end, bool whole,
                                              acc_of<T> (&u)[kPack<T>], acc_of<T> (&factor)[kPack<T>]) {
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) u[i] = 0;
  if (p.x) load_pack(static_cast<const T*>(p.x), first, step, end, whole, u);
  if constexpr (K > 0) load_pack(static_cast<const T*>(p.g), first, step, end, whole, factor);
}

template <int K, typename T>
__device__ __forceinline__ void multiply_h(const BiasActParams& p, i64 first, i64 step, i64 end, bool whole,
                                           acc_of<T> (&factor)[kPack<T>]) {
  if (K == 0 || !p.h) return;
  acc_of<T> h[kPack<T>];
  load_pack(static_cast<const T*>(p.h), first, step, end, whole, h);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) factor[i] *= h[i];
}

// values[i] += table[channel of element i]; elements beyond the end stay.
template <typename T>
__device__ __forceinline__ void add_channels(const BiasActParams& p, const T* table, i64 first, i64 step,
                                             acc_of<T> (&values)[kPack<T>]) {
  constexpr int V = kPack<T>;
  const i64 count = p.channels.by, inner = p.inner.by;
  i64 row = p.inner.quotient(first);
  i64 rest = first - row * inner, channel = p.channels.remainder(row);
  if (step == 1 && rest + V <= inner) {
    const acc_of<T> value = widen(table[channel]);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] += value;
  } else if (step == 1 && inner == 1 && channel + V <= count) {
    acc_of<T> numbers[V];
    load_pack(table, channel, 1, count, reinterpret_cast<u64>(table + channel) % 16 == 0, numbers);
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] += numbers[i];
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      values[i] += widen(table[channel]);
      if (step != 1) {
        row = p.inner.quotient(first + (i + 1) * step);
        channel = p.channels.remainder(row);
      } else if (++rest == inner) {
        rest = 0;
        if (++channel == count) channel = 0;
      }
    }
  }
}

// One pack a thread and round; where 16-byte accesses are impossible, its elements lie a block's width apart.
template <typename T, int K>
__global__ void __launch_bounds__(kBiasActThreads) bias_act_map(const __grid_constant__ BiasActParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, kRounds = K == 0 ? kValuePacks : kDerivativePacks;
  const i64 tile = static_cast<i64>(blockIdx.x) * (kBiasActThreads * V * kRounds);
  const i64 step = p.vector ? 1 : kBiasActThreads, stride = p.vector ? kBiasActThreads * V : V * kBiasActThreads;
  const i64 begin = tile + threadIdx.x * (p.vector ? V : 1);
  acc_t u[kRounds][V], factor[kRounds][V];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const i64 first = begin + r * stride;
    load_operands<K, T>(p, first, step, p.numel, p.vector && first + V <= p.numel, u[r], factor[r]);
  }
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const i64 first = begin + r * stride;
    if (first >= p.numel) return;
    const bool whole = p.vector && first + V <= p.numel;
    if (p.bias) add_channels(p, static_cast<const T*>(p.bias), first, step, u[r]);
    if constexpr (K > 0) {
      if (p.g_bias) add_channels(p, static_cast<const T*>(p.g_bias), first, step, factor[r]);
      multiply_h<K, T>(p, first, step, p.numel, whole, factor[r]);
    }
    apply<K>(p, u[r], factor[r]);
    store_pack(static_cast<T*>(p.out), first, step, p.numel, whole, factor[r]);
  }
}

// Sums `values`, one or N a thread, over threadIdx.y; threads of y = 0 get the total. Blocks are powers of two.
template <typename acc_t, int N>
__device__ __forceinline__ void sum_over_y(acc_t (&values)[N]) {
  __shared__ acc_t shared[N][kBiasActThreads];
  const int at = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < N; ++i) shared[i][at] = values[i];
  for (int half = blockDim.y / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.y < half) {
#pragma unroll
      for (int i = 0; i < N; ++i) shared[i][at] = values[i] += shared[i][at + half * blockDim.x];
    }
  }
}

// One number, or a pack of T, from `table` at a channel.
template <typename T, int N>
__device__ __forceinline__ void load_channels(const void* table, i64 channel, acc_of<T> (&to)[N]) {
  const T* from = static_cast<const T*>(table) + channel;
  if constexpr (N == kPack<T>) {
    load_pack(from, 0, 1, N, reinterpret_cast<u64>(from) % 16 == 0, to);
  } else {
    static_assert(N == 1, "one or a pack");
    to[0] = widen(*from);
  }
}

// N numbers as T, in 16-byte packs where there are as many; `to` is then aligned.
template <typename T, int N>
__device__ __forceinline__ void store_channels(T* to, const acc_of<T> (&from)[N]) {
  constexpr int V = N % kPack<T> == 0 ? kPack<T> : 1;
#pragma unroll
  for (int first = 0; first < N; first += V) {
    if constexpr (V == 1) {
      to[first] = narrow<T>(from[first]);
    } else {
      acc_of<T> part[V];
#pragma unroll
      for (int i = 0; i < V; ++i) part[i] = from[first + i];
      store_pack(to, first, 1, N, true, part);
    }
  }
}

// A derivative with its sums over the channels, or the sums alone. A block has threadIdx.x over channels (packs of them
// where Last), threadIdx.y over the rows of its split.
template <typename T, int K, bool Last>
__global__ void __launch_bounds__(kBiasActThreads, K == 1 ? 4 : 3)
    bias_act_reduce(const __grid_constant__ BiasActParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, kWide = Last ? V : 1;
  const i64 channel = (static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x) * kWide;
  const i64 begin = blockIdx.y * p.rows_a_split;
  const i64 end = begin + p.rows_a_split < p.rows ? begin + p.rows_a_split : p.rows;
  const i64 count = p.channels.by, inner = p.inner.by;
  const bool inside = channel < count;
  acc_t bias[kWide], total[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) bias[i] = total[i] = 0;
  if (p.bias && inside) load_channels<T>(p.bias, channel, bias);
  // A pack is V channels of a row, or V rows of a channel: neighbours in memory, or else blockDim.y apart.
  const bool packed = Last || p.vector;
  const i64 apart = packed ? 1 : blockDim.y, rows_a_pack = Last ? 1 : V;
  for (i64 row = begin + threadIdx.y * (Last     ? 1
                                        : packed ? V
                                                 : 1);
       inside && row < end; row += rows_a_pack * blockDim.y) {
    acc_t u[V], factor[V];
    i64 at[V];
    if (packed) {
      const i64 plane = p.inner.quotient(row);
      at[0] = (plane * count + channel) * inner + (row - plane * inner);
      load_operands<K, T>(p, at[0], 1, at[0] + V, true, u, factor);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const i64 r = row + i * apart, plane = p.inner.quotient(r);
        at[i] = r < end ? (plane * count + channel) * inner + (r - plane * inner) : -1;
        u[i] = p.x && at[i] >= 0 ? widen(static_cast<const T*>(p.x)[at[i]]) : acc_t(0);
        factor[i] = at[i] >= 0 ? widen(static_cast<const T*>(p.g)[at[i]]) : acc_t(0);
      }
    }
#pragma unroll
    for (int i = 0; i < V; ++i) u[i] += bias[i % kWide];
    if (p.g_bias) {  // of second derivatives only: read again, so that the first have the registers
      acc_t g_bias[kWide];
      load_channels<T>(p.g_bias, channel, g_bias);
#pragma unroll
      for (int i = 0; i < V; ++i) factor[i] += g_bias[i % kWide];
    }
    if (packed) {
      multiply_h<K, T>(p, at[0], 1, at[0] + V, true, factor);
    } else if (p.h) {
#pragma unroll
      for (int i = 0; i < V; ++i) factor[i] *= at[i] >= 0 ? widen(static_cast<const T*>(p.h)[at[i]]) : acc_t(0);
    }
    apply<K>(p, u, factor);
    if (p.out && packed) store_pack(static_cast<T*>(p.out), at[0], 1, at[0] + V, true, factor);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (packed || at[i] >= 0) {
        if (p.out && !packed) static_cast<T*>(p.out)[at[i]] = narrow<T>(factor[i]);
        total[i % kWide] += factor[i];
      }
    }
  }
  sum_over_y(total);
  if (threadIdx.y || !inside) return;
  if (gridDim.y == 1) {
    store_channels<T>(static_cast<T*>(p.sums) + channel, total);
  } else {
    store_channels<acc_t>(static_cast<acc_t*>(p.sums) + blockIdx.y * count + channel, total);
  }
}

// The total over the splits; threadIdx.x over channels, threadIdx.y over splits.
template <typename T>
__global__ void __launch_bounds__(kBiasActThreads) bias_act_sums(const __grid_constant__ BiasActSumsParams p) {
  const i64 channel = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  acc_of<T> total[1] = {0};
  if (channel < p.channels) {
#pragma unroll 4
    for (i64 split = threadIdx.y; split < p.splits; split += blockDim.y)
      total[0] += static_cast<const acc_of<T>*>(p.sums)[split * p.channels + channel];
  }
  sum_over_y(total);
  if (threadIdx.y == 0 && channel < p.channels) static_cast<T*>(p.out)[channel] = narrow<T>(total[0]);
}

}  // namespace gk
