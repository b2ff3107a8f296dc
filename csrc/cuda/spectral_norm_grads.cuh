// The derivatives of the division by sigma: sums over the weights, and what is made of them.
#pragma once
#include "spectral_norm_parts.cuh"

namespace gk {

// Whether the packs of a tile each lie in a row, and 16 bytes of v lie together: pairs of lanes then share what they
// read of v, and so there must be pairs.
template <typename acc_t, int V>
__device__ __forceinline__ bool spectral_in_rows(const SpectralParams& p, const SpectralWeight& w) {
  return w.cols % V == 0 && i64(w.rows) * w.cols % (2 * V) == 0 &&
         reinterpret_cast<u64>(static_cast<const acc_t*>(p.v) + w.v_at) % 16 == 0;
}

// V numbers of v from `column` on. Of eight floats a lane's two accesses would be 32 bytes from its neighbour's: each
// of a pair of lanes instead reads half of its own and half of the other's, side by side, and they exchange those.
template <typename acc_t, int V>
__device__ __forceinline__ void spectral_read(const acc_t* v, i32 column, i32 cols, acc_t (&to)[V]) {
  constexpr int N = kPack<acc_t>;
  if constexpr (V == N) {
    widen<acc_t, N>(load_whole<acc_t, N>(v + column), to);
  } else {
    static_assert(V == 2 * N, "two accesses");
    const bool odd = threadIdx.x & 1;
    const i32 before = column ? column - V : cols - V, after = column + V < cols ? column + V : 0;
    const Pack<acc_t> first = load_whole<acc_t, N>(v + (odd ? before + N : column));
    const Pack<acc_t> second = load_whole<acc_t, N>(v + (odd ? column + N : after));
    const u32 pair = 3u << (threadIdx.x & 30);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const acc_t other = __shfl_xor_sync(pair, odd ? first.v[i] : second.v[i], 1);
      to[i] = odd ? other : first.v[i];
      to[N + i] = odd ? second.v[i] : other;
    }
  }
}

// u[row] v[column] of the elements of a pack; in_rows: see above.
template <typename acc_t, int V>
__device__ __forceinline__ void spectral_outer(const SpectralParams& p, const SpectralWeight& w, i64 first, i64 step,
                                               i64 end, bool in_rows, acc_t (&to)[V]) {
  const acc_t *u = static_cast<const acc_t*>(p.u) + w.u_at, *v = static_cast<const acc_t*>(p.v) + w.v_at;
  i32 row = static_cast<i32>(first / w.cols), column = static_cast<i32>(first - i64(row) * w.cols);
  if (in_rows) {
    spectral_read<acc_t, V>(v, column, w.cols, to);
    const acc_t factor = u[row];
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] *= factor;
    return;
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    to[i] = first + i * step < end ? u[row] * v[column] : acc_t(0);
    column += static_cast<i32>(step);
    if (column >= w.cols) {
      const i32 more = column / w.cols;
      row += more;
      column -= more * w.cols;
    }
  }
}

// u^T a v, <a, b> and <b, c>: products of different numbers cancel, they are summed in double.
template <typename T>
__global__ void __launch_bounds__(kSpectralThreads, sizeof(T) == 8 ? 2 : 3)
    spectral_dots(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>;
  const SpectralWeight& w = spectral_weight(p);
  const T *a = static_cast<const T*>(w.a), *b = static_cast<const T*>(w.b), *c = static_cast<const T*>(w.c);
  const i64 numel = i64(w.rows) * w.cols;
  const bool whole = spectral_whole<T>(a, numel) && spectral_whole<T>(b, 0) && spectral_whole<T>(c, 0);
  const bool in_rows = whole && spectral_in_rows<acc_t, V>(p, w);
  double along = 0, ab = 0, bc = 0;
  spectral_tile<T>(w, whole, [&](i64 first, i64 step, i64 end) {
    acc_t x[V], y[V];
    if (a) load_pack(a, first, step, end, whole, x);
    if (b) load_pack(b, first, step, end, whole, y);
    if (a && b) {
#pragma unroll
      for (int i = 0; i < V; ++i) ab += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    }
    if (a) {
      acc_t outer[V];
      spectral_outer(p, w, first, step, end, in_rows, outer);
#pragma unroll
      for (int i = 0; i < V; ++i) along += static_cast<double>(x[i]) * static_cast<double>(outer[i]);
    }
    if (c) {
      load_pack(c, first, step, end, whole, x);
#pragma unroll
      for (int i = 0; i < V; ++i) bc += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    }
  });
  double* parts = static_cast<double*>(p.s_parts) + i64(w.index) * 3 * p.stride + (blockIdx.x - w.first);
  if (a) along = spectral_total(along);
  if (a && b) ab = spectral_total(ab);
  if (c) bc = spectral_total(bc);
  if (threadIdx.x) return;
  parts[0] = along;
  parts[p.stride] = ab;
  parts[2 * p.stride] = bc;
}

// With the dots d0, d1, d2: kind 0 a / sigma - d2 / sigma^2 u v^T; 1 a / sigma - d0 / sigma^2 b;
// 2 -d0 / sigma^2 a + (2 d0 d2 / sigma - d1) / sigma^2 u v^T.
template <typename T, int Kind>
__global__ void __launch_bounds__(kSpectralThreads) spectral_combine(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>;
  const SpectralWeight& w = spectral_weight(p);
  const i64 numel = i64(w.rows) * w.cols, room = i64(w.index) * 3 * p.stride;
  const i32 blocks = spectral_blocks(numel, kSpectralTile);
  const double sigma = static_cast<const acc_t*>(p.sigma)[w.index];
  double d[3] = {};
#pragma unroll
  for (int i = 0; i < 3; ++i)
    if (Kind == 2 || i == (Kind == 0 ? 2 : 0)) d[i] = spectral_parts<double>(p.s_parts, room + i * p.stride, blocks);
  const double over = 1 / (sigma * sigma);
  const acc_t scale = static_cast<acc_t>(Kind == 2 ? -d[0] * over : 1 / sigma);
  const acc_t factor = static_cast<acc_t>(Kind == 0   ? -d[2] * over
                                          : Kind == 1 ? -d[0] * over
                                                      : (2 * d[0] * d[2] / sigma - d[1]) * over);
  const T *a = static_cast<const T*>(w.a), *b = static_cast<const T*>(w.b);
  const bool whole = spectral_whole<T>(a, numel) && spectral_whole<T>(b, 0) && spectral_whole<T>(w.out, 0);
  const bool in_rows = whole && spectral_in_rows<acc_t, V>(p, w);
  spectral_tile<T>(w, whole, [&](i64 first, i64 step, i64 end) {
    acc_t x[V], y[V];
    load_pack(a, first, step, end, whole, x);
    if constexpr (Kind == 1) {
      load_pack(b, first, step, end, whole, y);
    } else {
      spectral_outer(p, w, first, step, end, in_rows, y);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = scale * x[i] + factor * y[i];
    spectral_store(static_cast<T*>(w.out), first, step, end, whole, x);
  });
}

}  // namespace gk
