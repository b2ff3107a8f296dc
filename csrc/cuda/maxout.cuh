// maxout's kernels: the value with the index of the largest, and the derivatives that follow the index.
#pragma once
#include "maxout_params.h"
#include "together.cuh"

namespace gk {

// Takes x where it is larger, or the first NaN.
template <typename acc_t>
__device__ __forceinline__ void take_larger(acc_t x, i32 piece, acc_t& most, i32& which) {
  if (!(x <= most) && most == most) {
    most = x;
    which = piece;
  }
}

template <int N>
__device__ __forceinline__ void load_index(const MaxoutParams& p, i64 first, i32 (&to)[N]) {
  if (p.wide_index) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = static_cast<const i32*>(p.index)[first + i];
  } else {
    const auto pack = load_whole<unsigned char, N>(static_cast<const unsigned char*>(p.index) + first);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = pack.v[i];
  }
}

template <int N>
__device__ __forceinline__ void store_index(const MaxoutParams& p, i64 first, const i32 (&from)[N]) {
  if (!p.index) return;
  if (p.wide_index) {
#pragma unroll
    for (int i = 0; i < N; ++i) static_cast<i32*>(p.index)[first + i] = from[i];
  } else {
    Pack<unsigned char, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = static_cast<unsigned char>(from[i]);
    *reinterpret_cast<Pack<unsigned char, N>*>(static_cast<unsigned char*>(p.index) + first) = pack;
  }
}

template <typename T, int N>
__device__ __forceinline__ void load(const void* from, i64 at, acc_of<T> (&to)[N]) {
  widen<T, N>(load_whole<T, N>(static_cast<const T*>(from) + at), to);
}

// V results a thread, neighbours in one row.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kMaxoutThreads) maxout_apart(const __grid_constant__ MaxoutParams p) {
  using acc_t = acc_of<T>;
  const i64 first = (static_cast<i64>(blockIdx.x) * kMaxoutThreads + threadIdx.x) * V;
  if (first >= p.results) return;
  const i64 inner = p.inner.by, start = p.inner.quotient(first) * inner * (p.pieces - 1) + first;
  acc_t most[V];
  i32 which[V];
  if constexpr (K == kMaxoutScatter) {
    load<T, V>(p.in, first, most);
    load_index<V>(p, first, which);
    for (i32 piece = 0; piece < p.pieces; ++piece) {
      acc_t own[V];
#pragma unroll
      for (int i = 0; i < V; ++i) own[i] = which[i] == piece ? most[i] : acc_t(0);
      store_together<T, V>(static_cast<T*>(p.out) + start + piece * inner, own);
    }
  } else {
    if constexpr (K == kMaxoutGather) {
      load_index<V>(p, first, which);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) which[i] = 0;
    }
    load<T, V>(p.in, start, most);
    for (i32 piece = 1; piece < p.pieces; ++piece) {
      acc_t x[V];
      load<T, V>(p.in, start + piece * inner, x);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if constexpr (K == kMaxoutGather) {
          most[i] = which[i] == piece ? x[i] : most[i];
        } else {
          take_larger(x[i], piece, most[i], which[i]);
        }
      }
    }
    store_together<T, V>(static_cast<T*>(p.out) + first, most);
    if constexpr (K == kMaxoutValue) store_index<V>(p, first, which);
  }
}

// A pack of pieces a thread: P of them to a result.
template <typename T, int K, int P>
__global__ void __launch_bounds__(kMaxoutThreads) maxout_near(const __grid_constant__ MaxoutParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, N = V / P;
  const i64 first = (static_cast<i64>(blockIdx.x) * kMaxoutThreads + threadIdx.x) * N;
  if (first >= p.results) return;
  acc_t x[V], result[N];
  i32 which[N];
  if constexpr (K == kMaxoutScatter) {
    load<T, N>(p.in, first, result);
    load_index<N>(p, first, which);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = which[i / P] == i % P ? result[i / P] : acc_t(0);
    store_together<T, V>(static_cast<T*>(p.out) + first * P, x);
  } else {
    load<T, V>(p.in, first * P, x);
    if constexpr (K == kMaxoutGather) load_index<N>(p, first, which);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      result[i] = x[i * P];
      if constexpr (K == kMaxoutValue) which[i] = 0;
#pragma unroll
      for (int piece = 1; piece < P; ++piece) {
        if constexpr (K == kMaxoutGather) {
          result[i] = which[i] == piece ? x[i * P + piece] : result[i];
        } else {
          take_larger(x[i * P + piece], piece, result[i], which[i]);
        }
      }
    }
    store_together<T, N>(static_cast<T*>(p.out) + first, result);
    if constexpr (K == kMaxoutValue) store_index<N>(p, first, which);
  }
}

}  // namespace gk
