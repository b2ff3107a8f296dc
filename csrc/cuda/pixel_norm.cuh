// pixel_norm's kernels: a pass for the sums of each vector, and one over what the caches then hold.
#pragma once
#include "pack.cuh"
#include "pixel_norm.h"
#include "pixel_norm_params.h"

namespace gk {

template <typename T, int V>
__device__ __forceinline__ void load_elements(const void* from, i64 at, acc_of<T> (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = widen(static_cast<const T*>(from)[at]);
  } else {
    load_pack(static_cast<const T*>(from) + at, 0, 1, V, true, to);
  }
}

template <typename T, int V>
__device__ __forceinline__ void store_elements(void* to, i64 at, const acc_of<T> (&from)[V]) {
  if constexpr (V == 1) {
    static_cast<T*>(to)[at] = narrow<T>(from[0]);
  } else {
    store_16_bytes(static_cast<T*>(to) + at, from);
  }
}

template <typename T, int K, int V>
struct PixelOperands {
  acc_of<T> x[V], g[V], v[V];

  __device__ __forceinline__ PixelOperands(const PixelNormParams& p, i64 at) {
    load_elements<T, V>(p.x, at, x);
    if constexpr (K > 0) load_elements<T, V>(p.g, at, g);
    if constexpr (K > 1) load_elements<T, V>(p.v, at, v);
  }
  // Adds element i's terms to the sums of its vector.
  __device__ __forceinline__ void add(int i, acc_of<T>* sums) const {
    sums[0] += x[i] * x[i];
    if constexpr (K > 0) sums[1] += g[i] * x[i];
    if constexpr (K > 1) {
      sums[2] += v[i] * x[i];
      sums[3] += v[i] * g[i];
    }
  }
};

// Writes the results of V elements; coefficient(i) is the PixelNorm of element i.
template <typename T, int K, int V, class F>
__device__ __forceinline__ void emit(const PixelNormParams& p, i64 at, F coefficient) {
  const PixelOperands<T, K, V> in(p, at);
  acc_of<T> out[V];
  if (p.for_x) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      out[i] = coefficient(i).x_on_x * in.x[i];
      if constexpr (K > 0) out[i] += coefficient(i).x_on_g * in.g[i];
      if constexpr (K > 1) out[i] += coefficient(i).x_on_v * in.v[i];
    }
    store_elements<T, V>(p.for_x, at, out);
  }
  if constexpr (K > 1) {
    if (!p.for_g) return;
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = coefficient(i).g_on_x * in.x[i] + coefficient(i).g_on_v * in.v[i];
    store_elements<T, V>(p.for_g, at, out);
  }
}

template <typename T>
__device__ __forceinline__ acc_of<T> eps_of(const PixelNormParams& p) {
  if constexpr (sizeof(T) == 8) {
    return p.wide_eps;
  } else {
    return p.eps;
  }
}

// A warp a vector.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kPixelNormLanes* kPixelNormRows)
    pixel_norm_rows(const __grid_constant__ PixelNormParams p) {
  using acc_t = acc_of<T>;
  const i64 row = static_cast<i64>(blockIdx.x) * kPixelNormRows + threadIdx.y;
  if (row >= p.vectors) return;
  acc_t sums[kPixelNormSums<K>] = {};
  for (i64 c = threadIdx.x * V; c < p.count; c += kPixelNormLanes * V) {
    const PixelOperands<T, K, V> in(p, row * p.count + c);
#pragma unroll
    for (int i = 0; i < V; ++i) in.add(i, sums);
  }
#pragma unroll
  for (int s = 0; s < kPixelNormSums<K>; ++s)
#pragma unroll
    for (int apart = 16; apart; apart /= 2) sums[s] += __shfl_xor_sync(0xffffffffu, sums[s], apart);
  const PixelNorm<acc_t, K> one(sums, static_cast<acc_t>(p.count), eps_of<T>(p));
  for (i64 c = threadIdx.x * V; c < p.count; c += kPixelNormLanes * V)
    emit<T, K, V>(p, row * p.count + c, [&](int) -> const PixelNorm<acc_t, K>& { return one; });
}

// A thread has V neighbouring vectors, and every eighth of their elements.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kPixelNormLanes* kPixelNormRows)
    pixel_norm_columns(const __grid_constant__ PixelNormParams p) {
  using acc_t = acc_of<T>;
  constexpr int S = kPixelNormSums<K>;
  __shared__ acc_t shared[kPixelNormRows][S][V][kPixelNormLanes];
  const i64 vector = (static_cast<i64>(blockIdx.x) * kPixelNormLanes + threadIdx.x) * V;
  const bool inside = vector < p.vectors;
  const i64 inner = p.inner.by, outer = p.inner.quotient(vector);
  const i64 first = outer * p.count * inner + (vector - outer * inner);
  acc_t sums[V][S] = {};
  if (inside) {
    for (i64 c = threadIdx.y; c < p.count; c += kPixelNormRows) {
      const PixelOperands<T, K, V> in(p, first + c * inner);
#pragma unroll
      for (int i = 0; i < V; ++i) in.add(i, sums[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i)
#pragma unroll
    for (int s = 0; s < S; ++s) shared[threadIdx.y][s][i][threadIdx.x] = sums[i][s];
  __syncthreads();
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < V; ++i)
#pragma unroll
    for (int s = 0; s < S; ++s) {
      acc_t total = 0;
#pragma unroll
      for (int y = 0; y < kPixelNormRows; ++y) total += shared[y][s][i][threadIdx.x];
      sums[i][s] = total;
    }
  PixelNorm<acc_t, K> each[V];
#pragma unroll
  for (int i = 0; i < V; ++i) each[i] = PixelNorm<acc_t, K>(sums[i], static_cast<acc_t>(p.count), eps_of<T>(p));
  for (i64 c = threadIdx.y; c < p.count; c += kPixelNormRows)
    emit<T, K, V>(p, first + c * inner, [&](int i) -> const PixelNorm<acc_t, K>& { return each[i]; });
}

}  // namespace gk
