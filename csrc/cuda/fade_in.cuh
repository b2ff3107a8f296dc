// fade_in's kernels: a mix of images and enlarged low ones, and its adjoint.
#pragma once
#include "channel_sums.cuh"
#include "fade_in_params.h"
#include "together.cuh"

namespace gk {

// The factors of x, of l, and of the second difference.
template <typename T>
struct FadeNumbers {
  acc_of<T> a, b, a2;

  __device__ __forceinline__ explicit FadeNumbers(const FadeInParams& p) {
    if constexpr (sizeof(acc_of<T>) == 8) {
      a = p.wide_factor;
    } else {
      a = p.factor;
    }
    if (p.a) a = widen(*static_cast<const T*>(p.a));
    b = p.difference ? -a : 1 - a;
    a2 = p.a2 ? widen(*static_cast<const T*>(p.a2)) : acc_of<T>(0);
  }
};

// 16 bytes are named as one access, which NVRTC 13 else takes apart.
template <typename T, int V>
__device__ __forceinline__ void load_of(const void* from, i64 at, acc_of<T> (&to)[V]) {
  const T* start = static_cast<const T*>(from) + at;
  if constexpr (sizeof(T) * V == 16) {
    const uint4 bits = __ldca(reinterpret_cast<const uint4*>(start));
    Pack<T, V> pack;
    memcpy(&pack, &bits, 16);
    widen<T, V>(pack, to);
  } else {
    widen<T, V>(load_whole<T, V>(start), to);
  }
}

// What low images give to a mix.
template <typename T, int V>
__device__ __forceinline__ void low_part(const FadeInParams& p, const FadeNumbers<T>& n, i64 at, acc_of<T> (&low)[V]) {
  acc_of<T> l[V];
#pragma unroll
  for (int e = 0; e < V; ++e) low[e] = 0;
  if (p.l) {
    load_of<T, V>(p.l, at, l);
#pragma unroll
    for (int e = 0; e < V; ++e) low[e] = n.b * l[e];
  }
  if (p.l2) {
    load_of<T, V>(p.l2, at, l);
#pragma unroll
    for (int e = 0; e < V; ++e) low[e] -= n.a2 * l[e];
  }
}

template <typename T, int V>
__device__ __forceinline__ void add_scaled(const void* from, i64 at, acc_of<T> factor, acc_of<T> (&y)[V]) {
  acc_of<T> x[V];
  load_of<T, V>(from, at, x);
#pragma unroll
  for (int e = 0; e < V; ++e) y[e] += factor * x[e];
}

template <typename acc_t>
__device__ __forceinline__ void store_sum(const FadeInParams& p, acc_t sum) {
  if (!p.sums) return;
  __shared__ ColumnSums<acc_t, 1, 1> shared;
  acc_t values[1] = {sum};
  shared.put(values, 1);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.sums)[blockIdx.x] = shared.total(0, 0, 1);
}

// The positions of a thread, and where they are in images.
struct FadePlace {
  i64 begin, end;

  __device__ __forceinline__ explicit FadePlace(const FadeInParams& p) : begin(blockIdx.x * p.share) {
    end = begin + p.share < p.positions ? begin + p.share : p.positions;
    begin += threadIdx.x;
  }
};

// A pack of V neighbours on each of R rows; V / R low ones.
template <typename T, int R>
struct FadeRows {
  i64 at, line;

  __device__ __forceinline__ FadeRows(const FadeInParams& p, i64 position) {
    const i64 row = p.row.quotient(position);
    line = p.row.by * kPack<T>;
    at = row * R * line + (position - row * p.row.by) * kPack<T>;
  }
};

// A low pixel's r x r: the first of them.
struct FadePixels {
  i64 at, line, inner;

  __device__ __forceinline__ FadePixels(const FadeInParams& p, i64 position, int pack) {
    const i64 pixel = p.pixel.quotient(position), row = p.row.quotient(pixel), column = pixel - row * p.row.by;
    inner = p.pixel.by * pack;
    line = p.row.by * p.r * inner;
    at = row * p.r * line + column * p.r * inner + (position - pixel * p.pixel.by) * pack;
  }
};

template <typename T, int R>
__global__ void __launch_bounds__(kFadeThreads, 4) fade_in_value_rows(const __grid_constant__ FadeInParams p) {
  constexpr int V = kPack<T>, N = V / R;
  const FadeNumbers<T> n(p);
  const FadePlace place(p);
  for (i64 position = place.begin; position < place.end; position += kFadeThreads) {
    const FadeRows<T, R> own(p, position);
    acc_of<T> low[N], y[R][V];
    low_part<T, N>(p, n, position * N, low);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int e = 0; e < V; ++e) y[i][e] = low[e / R];
    if (p.x) {
#pragma unroll
      for (int i = 0; i < R; ++i) add_scaled<T, V>(p.x, own.at + i * own.line, n.a, y[i]);
    }
    if (p.x2) {
#pragma unroll
      for (int i = 0; i < R; ++i) add_scaled<T, V>(p.x2, own.at + i * own.line, n.a2, y[i]);
    }
#pragma unroll
    for (int i = 0; i < R; ++i) store_together<T, V>(static_cast<T*>(p.out) + own.at + i * own.line, y[i]);
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kFadeThreads, 4) fade_in_value_any(const __grid_constant__ FadeInParams p) {
  const FadeNumbers<T> n(p);
  const FadePlace place(p);
  for (i64 position = place.begin; position < place.end; position += kFadeThreads) {
    const FadePixels own(p, position, V);
    acc_of<T> low[V];
    low_part<T, V>(p, n, position * V, low);
#pragma unroll 1  // else registers for four
    for (int i = 0; i < p.r; ++i)
#pragma unroll 1
      for (int j = 0; j < p.r; ++j) {
        const i64 at = own.at + i * own.line + j * own.inner;
        acc_of<T> y[V];
#pragma unroll
        for (int e = 0; e < V; ++e) y[e] = low[e];
        if (p.x) add_scaled<T, V>(p.x, at, n.a, y);
        if (p.x2) add_scaled<T, V>(p.x2, at, n.a2, y);
        store_together<T, V>(static_cast<T*>(p.out) + at, y);
      }
  }
}

// One pack of g: a g to out, its products with x - up(l) to the sum; `of(e)` is the low element over element e.
template <typename T, int V, class Of, int N>
__device__ __forceinline__ void adjoint_pack(const FadeInParams& p, const FadeNumbers<T>& n, i64 at,
                                             const acc_of<T> (&g)[V], const acc_of<T> (&low)[N], Of of,
                                             acc_of<T> (&total)[N], acc_of<T>& sum) {
#pragma unroll
  for (int e = 0; e < V; ++e) total[of(e)] += g[e];
  if (p.out) {
    acc_of<T> y[V];
#pragma unroll
    for (int e = 0; e < V; ++e) y[e] = n.a * g[e];
    store_together<T, V>(static_cast<T*>(p.out) + at, y);
  }
  if (!p.sums) return;
  acc_of<T> x[V];
#pragma unroll
  for (int e = 0; e < V; ++e) x[e] = 0;
  if (p.x) load_of<T, V>(p.x, at, x);
#pragma unroll
  for (int e = 0; e < V; ++e) sum += g[e] * (x[e] - low[of(e)]);
}

// Before the packs of a position, and after them.
template <typename T, int N>
__device__ __forceinline__ void begin_low(const FadeInParams& p, i64 at, acc_of<T> (&low)[N], acc_of<T> (&total)[N]) {
#pragma unroll
  for (int e = 0; e < N; ++e) low[e] = total[e] = 0;
  if (p.sums && p.l) load_of<T, N>(p.l, at, low);
}
template <typename T, int N>
__device__ __forceinline__ void end_low(const FadeInParams& p, const FadeNumbers<T>& n, i64 at, acc_of<T> (&total)[N]) {
  if (!p.out_l) return;
#pragma unroll
  for (int e = 0; e < N; ++e) total[e] *= n.b;
  store_together<T, N>(static_cast<T*>(p.out_l) + at, total);
}

template <typename T, int R>
__global__ void __launch_bounds__(kFadeThreads, 4) fade_in_adjoint_rows(const __grid_constant__ FadeInParams p) {
  constexpr int V = kPack<T>, N = V / R;
  const FadeNumbers<T> n(p);
  const FadePlace place(p);
  acc_of<T> sum = 0;
  for (i64 position = place.begin; position < place.end; position += kFadeThreads) {
    const FadeRows<T, R> own(p, position);
    acc_of<T> low[N], total[N], g[R][V];
    begin_low<T, N>(p, position * N, low, total);
#pragma unroll
    for (int i = 0; i < R; ++i) load_of<T, V>(p.g, own.at + i * own.line, g[i]);
#pragma unroll
    for (int i = 0; i < R; ++i)
      adjoint_pack<T, V>(p, n, own.at + i * own.line, g[i], low, [](int e) { return e / R; }, total, sum);
    end_low<T, N>(p, n, position * N, total);
  }
  store_sum(p, sum);
}

template <typename T, int V>
__global__ void __launch_bounds__(kFadeThreads, 4) fade_in_adjoint_any(const __grid_constant__ FadeInParams p) {
  const FadeNumbers<T> n(p);
  const FadePlace place(p);
  acc_of<T> sum = 0;
  for (i64 position = place.begin; position < place.end; position += kFadeThreads) {
    const FadePixels own(p, position, V);
    acc_of<T> low[V], total[V];
    begin_low<T, V>(p, position * V, low, total);
#pragma unroll 1  // else registers for four
    for (int i = 0; i < p.r; ++i)
#pragma unroll 1
      for (int j = 0; j < p.r; ++j) {
        const i64 at = own.at + i * own.line + j * own.inner;
        acc_of<T> g[V];
        load_of<T, V>(p.g, at, g);
        adjoint_pack<T, V>(p, n, at, g, low, [](int e) { return e; }, total, sum);
      }
    end_low<T, V>(p, n, position * V, total);
  }
  store_sum(p, sum);
}

}  // namespace gk
