// pixel_shuffle_act's kernels: value, backward or double backward, with the channels' sums.
#pragma once
#include "activate.cuh"
#include "channel_sums.cuh"
#include "pixel_shuffle_act_params.h"
#include "together.cuh"

namespace gk {

template <typename T, int N>
__device__ __forceinline__ void load_numbers(const void* table, i64 channel, acc_of<T> (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = table ? widen(static_cast<const T*>(table)[channel + i]) : acc_of<T>(0);
}

// The sums of the block's columns, N channels each.
template <typename acc_t, int N, int kWidth>
__device__ __forceinline__ void store_sums(const PixelShuffleActParams& p, acc_t (&total)[N], i64 split, i64 channel,
                                           bool inside) {
  if (!p.sums) return;
  __shared__ ColumnSums<acc_t, N, kWidth> shared;
  shared.put(total, blockDim.x < kWidth ? blockDim.x : kWidth);
  if (threadIdx.y || threadIdx.x >= kWidth || !inside) return;
#pragma unroll
  for (int i = 0; i < N; ++i)
    static_cast<acc_t*>(p.sums)[split * p.channels + channel + i] =
        shared.total(i, threadIdx.x, blockDim.x < kWidth ? blockDim.x : kWidth);
}

// V neighbours of a row of y: V / R columns of R channels of x. A block owns a channel of y and a row within the
// square, R channels of x, and walks along a share of the samples, rows and packs.
template <typename T, int K, int R>
__global__ void __launch_bounds__(kShuffleThreads)
    pixel_shuffle_act_rows(const __grid_constant__ PixelShuffleActParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, N = V / R;
  const i64 group = blockIdx.x % p.blocks, split = blockIdx.x / p.blocks, channel = group * R;
  const i64 plane = p.a_plane.by, to_group = group / R * p.c_step + group % R * p.i_step;
  acc_t bias[R], v_bias[R], total[R];
  load_numbers<T, R>(p.bias, channel, bias);
  if constexpr (K == 2) load_numbers<T, R>(p.v_bias, channel, v_bias);
#pragma unroll
  for (int j = 0; j < R; ++j) total[j] = 0;
  const auto load_x = [&](const void* from, i64 at, acc_t(&to)[V]) {
#pragma unroll
    for (int j = 0; j < R; ++j) {
      acc_t part[N];
      widen<T, N>(load_whole<T, N>(static_cast<const T*>(from) + at + j * plane), part);
#pragma unroll
      for (int k = 0; k < N; ++k) to[k * R + j] = part[k];
    }
  };
  const i64 begin = split * p.share, end = begin + p.share < p.positions ? begin + p.share : p.positions;
  for (i64 at = begin + threadIdx.x; at < end; at += kShuffleThreads) {
    const i64 row = p.a_row.quotient(at), column = (at - row * p.a_row.by) * N;
    const i64 sample = row / p.height, line = row - sample * p.height;
    const i64 x_at = (sample * p.channels + channel) * plane + line * p.a_row.by * N + column;
    const i64 y_at = sample * p.n_step + line * p.h_step + column * R + to_group;
    acc_t u[V], g[V], d[V], q[V], v[V];
#pragma unroll
    for (int e = 0; e < V; ++e) u[e] = g[e] = q[e] = 0;
    if (p.ref && p.ref_is_output) {
      widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.ref) + y_at), u);
    } else if (p.ref) {
      load_x(p.ref, x_at, u);
    }
#pragma unroll
    for (int e = 0; e < V; ++e) u[e] += bias[e % R];
    if constexpr (K > 0) widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.g) + y_at), g);
    if constexpr (K == 2) {
      if (p.v) load_x(p.v, x_at, q);
#pragma unroll
      for (int e = 0; e < V; ++e) q[e] += v_bias[e % R];
    }
    activate<K>(p, u, g, d, q, v);
    if constexpr (K == 0) {
      store_together<T, V>(static_cast<T*>(p.out) + y_at, v);
    } else {
      if (K == 2 && p.out_g) store_together<T, V>(static_cast<T*>(p.out_g) + y_at, q);
#pragma unroll
      for (int j = 0; j < R; ++j) {
        acc_t part[N];
#pragma unroll
        for (int k = 0; k < N; ++k) total[j] += part[k] = K == 1 ? d[k * R + j] : v[k * R + j];
        if (p.out) store_together<T, N>(static_cast<T*>(p.out) + x_at + j * plane, part);
      }
    }
  }
  if constexpr (K > 0) store_sums<acc_t, R, 1>(p, total, split, channel, threadIdx.x == 0);
}

// V channels of a pixel of x, which lie side by side where V is not 1; those of y lie where they may. threadIdx.x along
// packs of channels, threadIdx.y along pixels.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kShuffleThreads, 2)
    pixel_shuffle_act_any(const __grid_constant__ PixelShuffleActParams p) {
  using acc_t = acc_of<T>;
  const i64 block = blockIdx.x % p.blocks, split = blockIdx.x / p.blocks;
  const i64 channel = (block * blockDim.x + threadIdx.x) * V, inner = p.inner.by;
  const bool inside = channel < p.channels;
  acc_t bias[V], v_bias[V], total[V];
  i64 to[V];
#pragma unroll
  for (int e = 0; e < V; ++e) {
    const i64 c = p.all.quotient(channel + e), k = channel + e - c * p.all.by, i = p.factor.quotient(k);
    to[e] = c * p.c_step + i * p.i_step + (k - i * p.factor.by) * p.j_step;
    bias[e] = v_bias[e] = total[e] = 0;
  }
  if (inside) {
    load_numbers<T, V>(p.bias, channel, bias);
    if constexpr (K == 2) load_numbers<T, V>(p.v_bias, channel, v_bias);
  }
  const auto load_y = [&](const void* from, i64 at, acc_t(&values)[V]) {
#pragma unroll
    for (int e = 0; e < V; ++e) values[e] = widen(static_cast<const T*>(from)[at + to[e]]);
  };
  const auto store_y = [&](void* into, i64 at, const acc_t(&values)[V]) {
#pragma unroll
    for (int e = 0; e < V; ++e) static_cast<T*>(into)[at + to[e]] = narrow<T>(values[e]);
  };
  const i64 begin = split * p.share, end = begin + p.share < p.positions ? begin + p.share : p.positions;
  for (i64 at = begin + threadIdx.y; inside && at < end; at += blockDim.y) {
    const i64 outer = p.inner.quotient(at), x_at = (outer * p.channels + channel) * inner + (at - outer * inner);
    const i64 sample = p.a_plane.quotient(at), pixel = at - sample * p.a_plane.by, line = p.a_row.quotient(pixel);
    const i64 y_at = sample * p.n_step + line * p.h_step + (pixel - line * p.a_row.by) * p.w_step;
    acc_t u[V], g[V], d[V], q[V], v[V];
#pragma unroll
    for (int e = 0; e < V; ++e) u[e] = g[e] = q[e] = 0;
    if (p.ref && p.ref_is_output) {
      load_y(p.ref, y_at, u);
    } else if (p.ref) {
      widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.ref) + x_at), u);
    }
#pragma unroll
    for (int e = 0; e < V; ++e) u[e] += bias[e];
    if constexpr (K > 0) load_y(p.g, y_at, g);
    if constexpr (K == 2) {
      if (p.v) widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.v) + x_at), q);
#pragma unroll
      for (int e = 0; e < V; ++e) q[e] += v_bias[e];
    }
    activate<K>(p, u, g, d, q, v);
    if constexpr (K == 0) {
      store_y(p.out, y_at, v);
    } else {
      if (K == 2 && p.out_g) store_y(p.out_g, y_at, q);
      if (p.out) store_together<T, V>(static_cast<T*>(p.out) + x_at, K == 1 ? d : v);
#pragma unroll
      for (int e = 0; e < V; ++e) total[e] += K == 1 ? d[e] : v[e];
    }
  }
  if constexpr (K > 0) store_sums<acc_t, V, kShuffleLanes>(p, total, split, channel, inside);
}

}  // namespace gk
