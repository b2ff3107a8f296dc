// Power iteration over many weights, and what is made of it: a half iteration, or the division, is one launch.
#pragma once
#include "pack.cuh"
#include "per_sample.cuh"
#include "spectral_norm_params.h"

namespace gk {

__device__ __forceinline__ const SpectralWeight& spectral_weight(const SpectralParams& p) {
  int i = p.count - 1;
  while (i > 0 && static_cast<i32>(blockIdx.x) < p.weights[i].first) --i;
  return p.weights[i];
}

template <typename T>
__device__ __forceinline__ bool spectral_whole(const void* t, i64 step) {
  return step % kPack<T> == 0 && reinterpret_cast<u64>(t) % 16 == 0;
}

// The total over the block, in every thread.
template <typename total_t>
__device__ __forceinline__ total_t spectral_total(total_t value) {
  __shared__ total_t shared[kSpectralThreads];
  __syncthreads();  // what the last call left has been read
  shared[threadIdx.x] = value;
  for (int half = kSpectralThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  __syncthreads();
  return shared[0];
}

// The sum of what `count` blocks left, in every thread.
template <typename total_t>
__device__ __forceinline__ total_t spectral_parts(const void* parts, i64 first, i32 count) {
  total_t total = 0;
  for (i32 i = threadIdx.x; i < count; i += kSpectralThreads) total += static_cast<const total_t*>(parts)[first + i];
  return spectral_total(total);
}

__device__ __forceinline__ i32 spectral_blocks(i64 n, i64 each) { return static_cast<i32>((n + each - 1) / each); }

template <typename acc_t>
__device__ __forceinline__ acc_t spectral_length(acc_t squares, double eps) {
  const acc_t length = sqrt(squares), least = static_cast<acc_t>(eps);
  return length < least ? least : length;
}

template <typename T>
constexpr int kSpectralStrip = kSpectralPacks * kPack<T>;  // columns of a block in W^T u

// s = W v. Parts: the squares of s, or its products with u.
template <typename T>
__global__ void __launch_bounds__(kSpectralThreads) spectral_rows(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, kRound = 1024, kEach = kSpectralRows / (kSpectralThreads / 32);
  constexpr int kLine = kRound / V + 32 / V;  // numbers i, i + V, ... are a line: no two lanes meet in a bank
  __shared__ acc_t shared[V][kLine];
  const SpectralWeight& w = spectral_weight(p);
  const i64 cols = w.cols;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i64 block = blockIdx.x - w.first, row = block * kSpectralRows + warp * kEach;
  const T* a = static_cast<const T*>(w.a);
  const acc_t *v = static_cast<const acc_t*>(p.v) + w.v_at, *u = static_cast<const acc_t*>(p.u) + w.u_at;
  const bool whole = spectral_whole<T>(a, cols);
  acc_t total[kEach] = {};
  for (i64 begin = 0; begin < cols; begin += kRound) {
    const i64 end = begin + kRound < cols ? begin + kRound : cols;
    __syncthreads();
    for (int i = threadIdx.x; i < kRound; i += kSpectralThreads)
      shared[i % V][i / V] = begin + i < end ? v[begin + i] : acc_t(0);
    __syncthreads();
    const int step = whole ? 1 : 32;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (row + r >= w.rows) continue;
      const T* line = a + (row + r) * cols;
      for (i64 first = begin + lane * (whole ? V : 1); first < end; first += 32 * V) {
        acc_t x[V];
        load_pack(line, first, step, end, whole, x);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const int at = static_cast<int>(first - begin) + i * step;
          if (at < kRound) total[r] += x[i] * shared[at % V][at / V];
        }
      }
    }
  }
  acc_t over = 1;
  if (p.mode & kSpectralRaw)
    over = spectral_length(
        spectral_parts<acc_t>(p.t_parts, i64(w.index) * p.stride, spectral_blocks(cols, kSpectralStrip<T>)), p.eps);
  acc_t part = 0;
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    for (int apart = 16; apart; apart /= 2) total[r] += __shfl_xor_sync(0xffffffffu, total[r], apart);
    if (lane || row + r >= w.rows) continue;
    const acc_t s = total[r] / over;
    static_cast<acc_t*>(p.s)[w.u_at + row + r] = s;
    part += s * (p.mode & kSpectralProduct ? u[row + r] : s);
  }
  part = spectral_total(part);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.s_parts)[i64(w.index) * p.stride + block] = part;
}

// t = W^T u, a pack of columns a thread, the rows dealt out. Parts: the squares of t.
template <typename T>
__global__ void __launch_bounds__(kSpectralThreads) spectral_columns(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>, kDeals = kSpectralThreads / kSpectralPacks;
  __shared__ acc_t shared[kDeals][kSpectralStrip<T>];
  const SpectralWeight& w = spectral_weight(p);
  const i64 cols = w.cols, block = blockIdx.x - w.first, begin = block * kSpectralStrip<T>;
  const int pack = threadIdx.x % kSpectralPacks, deal = threadIdx.x / kSpectralPacks;
  const T* a = static_cast<const T*>(w.a);
  const acc_t* u = static_cast<const acc_t*>(p.u) + w.u_at;
  const bool whole = spectral_whole<T>(a, cols);
  const int step = whole ? 1 : kSpectralPacks;
  const i64 first = begin + pack * (whole ? V : 1);
  acc_t total[V] = {};
  if (first < cols) {
#pragma unroll 4
    for (i64 row = deal; row < w.rows; row += kDeals) {
      acc_t x[V];
      load_pack(a + row * cols, first, step, cols, whole, x);
      const acc_t factor = u[row];
#pragma unroll
      for (int i = 0; i < V; ++i) total[i] += factor * x[i];
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) shared[deal][pack * (whole ? V : 1) + i * step] = total[i];
  acc_t over = 1;
  if (p.mode & kSpectralRaw)
    over = spectral_length(
        spectral_parts<acc_t>(p.s_parts, i64(w.index) * p.stride, spectral_blocks(w.rows, kSpectralRows)), p.eps);
  __syncthreads();
  acc_t part = 0;
  if (threadIdx.x < kSpectralStrip<T> && begin + threadIdx.x < cols) {
    acc_t t = 0;
    for (int i = 0; i < kDeals; ++i) t += shared[i][threadIdx.x];
    t /= over;
    static_cast<acc_t*>(p.t)[w.v_at + begin + threadIdx.x] = t;
    part = t * t;
  }
  part = spectral_total(part);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.t_parts)[i64(w.index) * p.stride + block] = part;
}

// f(first element, element step, one past the last) for each pack of the block's tile; a pack is V elements.
template <typename T, typename F>
__device__ __forceinline__ void spectral_tile(const SpectralWeight& w, bool whole, F f) {
  const i64 begin = i64(blockIdx.x - w.first) * kSpectralTile, numel = i64(w.rows) * w.cols;
  const i64 end = begin + kSpectralTile < numel ? begin + kSpectralTile : numel;
  for (i64 first = begin + threadIdx.x * (whole ? kPack<T> : 1); first < end; first += kSpectralThreads * kPack<T>)
    f(first, whole ? 1 : kSpectralThreads, end);
}

template <typename T>
__device__ __forceinline__ void spectral_store(T* to, i64 first, i64 step, i64 end, bool whole,
                                               const acc_of<T> (&from)[kPack<T>]) {
  if (whole) {
    store_16_bytes(to + first, from);
  } else {
    store_pack(to, first, step, end, false, from);
  }
}

template <typename acc_t>
__device__ __forceinline__ void spectral_normalize(const void* from, void* to, i64 at, i32 count, acc_t length) {
  for (i32 i = threadIdx.x; i < count; i += kSpectralThreads)
    static_cast<acc_t*>(to)[at + i] = static_cast<const acc_t*>(from)[at + i] / length;
}

// out = W / sigma; the first block of a weight also writes sigma, u and v.
template <typename T>
__global__ void __launch_bounds__(kSpectralThreads) spectral_divide(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  const SpectralWeight& w = spectral_weight(p);
  const i64 room = i64(w.index) * p.stride;
  acc_t s_squares = 0, t_squares = 0;
  if (p.mode & (kSpectralWriteU | kSpectralProduct))
    s_squares = spectral_parts<acc_t>(p.s_parts, room, spectral_blocks(w.rows, kSpectralRows));
  if (p.mode & kSpectralWriteV)
    t_squares = spectral_parts<acc_t>(p.t_parts, room, spectral_blocks(w.cols, kSpectralStrip<T>));
  const acc_t squares = p.mode & kSpectralLastV ? t_squares : s_squares;
  const acc_t sigma = p.mode & kSpectralProduct ? squares : squares / spectral_length(squares, p.eps);
  if (static_cast<i32>(blockIdx.x) == w.first) {
    if (threadIdx.x == 0) static_cast<acc_t*>(p.sigma)[w.index] = sigma;
    if (p.mode & kSpectralWriteU) spectral_normalize(p.s, p.u_out, w.u_at, w.rows, spectral_length(s_squares, p.eps));
    if (p.mode & kSpectralWriteV) spectral_normalize(p.t, p.v_out, w.v_at, w.cols, spectral_length(t_squares, p.eps));
  }
  const T* a = static_cast<const T*>(w.a);
  const bool whole = spectral_whole<T>(a, i64(w.rows) * w.cols) && spectral_whole<T>(w.out, 0);
  spectral_tile<T>(w, whole, [&](i64 first, i64 step, i64 end) {
    acc_t x[kPack<T>];
    load_pack(a, first, step, end, whole, x);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) x[i] /= sigma;
    spectral_store(static_cast<T*>(w.out), first, step, end, whole, x);
  });
}

// u[row] v[column] of the elements of a pack.
template <typename acc_t, int V>
__device__ __forceinline__ void spectral_outer(const SpectralParams& p, const SpectralWeight& w, i64 first, i64 step,
                                               i64 end, acc_t (&to)[V]) {
  const acc_t *u = static_cast<const acc_t*>(p.u) + w.u_at, *v = static_cast<const acc_t*>(p.v) + w.v_at;
  i32 row = static_cast<i32>(first / w.cols), column = static_cast<i32>(first - i64(row) * w.cols);
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
__global__ void __launch_bounds__(kSpectralThreads) spectral_dots(const __grid_constant__ SpectralParams p) {
  using acc_t = acc_of<T>;
  constexpr int V = kPack<T>;
  const SpectralWeight& w = spectral_weight(p);
  const T *a = static_cast<const T*>(w.a), *b = static_cast<const T*>(w.b), *c = static_cast<const T*>(w.c);
  const i64 numel = i64(w.rows) * w.cols;
  const bool whole = spectral_whole<T>(a, numel) && spectral_whole<T>(b, 0) && spectral_whole<T>(c, 0);
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
      spectral_outer(p, w, first, step, end, outer);
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
  spectral_tile<T>(w, whole, [&](i64 first, i64 step, i64 end) {
    acc_t x[V], y[V];
    load_pack(a, first, step, end, whole, x);
    if constexpr (Kind == 1) {
      load_pack(b, first, step, end, whole, y);
    } else {
      spectral_outer(p, w, first, step, end, y);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = scale * x[i] + factor * y[i];
    spectral_store(static_cast<T*>(w.out), first, step, end, whole, x);
  });
}

}  // namespace gk
