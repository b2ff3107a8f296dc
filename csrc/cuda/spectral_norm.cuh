// Power iteration over many weights, and what is made of it: a half iteration, or the division, is one launch.
#pragma once
#include "spectral_norm_grads.cuh"
#include "spectral_norm_parts.cuh"

namespace gk {

template <typename T>
constexpr int kSpectralStrip = kSpectralPacks * kPack<T>;  // columns of a block in W^T u

// s = W v. Parts: the squares of s, or its products with u.
template <typename T>
__global__ void __launch_bounds__(kSpectralThreads, sizeof(T) == 4 ? 4 : 2)
    spectral_rows(const __grid_constant__ SpectralParams p) {
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

// Where a deal's sum of a column lies: lanes write their packs' i-th columns together, and read neighbours'; neither
// meet in a bank.
template <typename T>
__device__ __forceinline__ int spectral_place(int deal, int column) {
  constexpr int V = kPack<T>, kLine = 128 / sizeof(acc_of<T>);
  return column ^ ((column / kLine ^ deal % 2 * (V / 2)) & (V - 1));
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
  for (int i = 0; i < V; ++i) shared[deal][spectral_place<T>(deal, pack * (whole ? V : 1) + i * step)] = total[i];
  acc_t over = 1;
  if (p.mode & kSpectralRaw)
    over = spectral_length(
        spectral_parts<acc_t>(p.s_parts, i64(w.index) * p.stride, spectral_blocks(w.rows, kSpectralRows)), p.eps);
  __syncthreads();
  acc_t part = 0;
  if (threadIdx.x < kSpectralStrip<T> && begin + threadIdx.x < cols) {
    acc_t t = 0;
    for (int i = 0; i < kDeals; ++i) t += shared[i][spectral_place<T>(i, threadIdx.x)];
    t /= over;
    static_cast<acc_t*>(p.t)[w.v_at + begin + threadIdx.x] = t;
    part = t * t;
  }
  part = spectral_total(part);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.t_parts)[i64(w.index) * p.stride + block] = part;
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

}  // namespace gk
