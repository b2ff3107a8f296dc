// What upfirdn2d's kernels on tiles share: the tile of x in shared memory, and the sums down its columns.
#pragma once
#include "pack.cuh"
#include "upfirdn2d_any.cuh"
#include "upfirdn2d_params.h"

namespace gk {

// Blocks a multiprocessor that registers allow.
template <int K>
constexpr int kFirBlocks = K == 4    ? 4
                           : K == 12 ? 3
                                     : 2;

struct FirTile {
  i64 plane;  // its first
  i32 x, y, c;
};

__device__ __forceinline__ FirTile tile_of(const FirTileParams& p) {
  const i64 i = blockIdx.x, yc = p.tiles_x.quotient(i), c = p.tiles_y.quotient(yc), plane = p.tiles_c.quotient(c);
  return {plane * p.tile_planes, static_cast<i32>(i - yc * p.tiles_x.by), static_cast<i32>(yc - c * p.tiles_y.by),
          static_cast<i32>(c - plane * p.tiles_c.by)};
}

// A thread's number of the filter: taps in correlation order behind `shift` zeros, with the gain; [K] across and [K]
// down, or [K, K].
template <typename T, int K, bool Separable>
struct FirTap {
  float value = 0.f;
  static constexpr int kCount = Separable ? 2 * K : K * K;
  static_assert(kCount <= kFirThreads, "a number a thread");

  __device__ __forceinline__ explicit FirTap(const FirTileParams& p) {
    const int part = threadIdx.x / K, y = part - p.v.shift;
    const bool second = Separable && part;
    const int x = threadIdx.x % K - (second ? p.v.shift : p.h.shift), taps = second ? p.v.taps : p.h.taps;
    if (threadIdx.x >= kCount || x < 0 || x >= taps) return;
    i64 at = p.flip ? x : taps - 1 - x;
    if (!Separable) {
      if (y < 0 || y >= p.v.taps) return;
      at += static_cast<i64>(p.flip ? y : p.v.taps - 1 - y) * taps;
    }
    const double gain = Separable && !part ? 1.0 : p.gain;
    value = static_cast<float>(gain * tap_at<T>(second ? p.fy : p.f, p.float_filter, at));
  }
  __device__ __forceinline__ void store(float* to) const {
    if (threadIdx.x < kCount) to[threadIdx.x] = value;
  }
};

// Where the rows of the tile are in x and in y, counted in rows, planes stacked; negative outside. Slots are ordered by
// row modulo Q (of x) or R (of y), then plane, then row: rows that neighbouring threads read at once are neighbours.
template <int Q, int R>
__device__ __forceinline__ void find_rows(const FirTileParams& p, const FirTile& tile, i64* rows_in, i64* rows_out) {
  const int in_groups = p.by_groups.by, groups = 1 << p.groups_shift;
  for (int i = threadIdx.x; i < Q * in_groups + R * groups; i += kFirThreads) {
    if (i < Q * in_groups) {
      const int residue = p.by_groups.quotient(i), group = i - residue * in_groups;
      const int plane = p.by_plane_groups.quotient(group), row = (group - plane * p.by_plane_groups.by) * Q + residue;
      const int y = tile.y * p.v.step + p.v.first + row;
      const bool inside = row < p.in_rows && y >= 0 && y < p.v.in && tile.plane + plane < p.planes;
      rows_in[i] = inside ? (tile.plane + plane) * p.v.in + y : -1;
    } else {
      const int slot = i - Q * in_groups, g = slot >> p.groups_shift, j = slot - (g << p.groups_shift);
      const int plane = j >> p.plane_groups_shift, y = tile.y * p.rows + (j - (plane << p.plane_groups_shift)) * R + g;
      const bool inside = y < p.v.out && tile.plane + plane < p.planes;
      rows_out[slot] = inside ? (tile.plane + plane) * p.v.out + y : -1;
    }
  }
}

// `total` items from where source(i) points, null for a zero, to put(i, item); four a thread are under way.
template <typename Item, typename Source, typename Put>
__device__ __forceinline__ void copy_in(int total, Source source, Put put) {
  for (int first = threadIdx.x; first < total; first += 4 * kFirThreads) {
    Item items[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      items[k] = Item();
      const int i = first + k * kFirThreads;
      if (i < total) {
        if (const Item* from = source(i)) items[k] = *from;
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int i = first + k * kFirThreads;
      if (i < total) put(i, items[k]);
    }
  }
}

template <typename T>
__device__ __forceinline__ void widen_pack(const uint4& from, float (&to)[kPack<T>]) {
  const Pack<T> pack = reinterpret_cast<const Pack<T>&>(from);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) to[i] = widen(pack.v[i]);
}

template <typename T>
__device__ __forceinline__ uint4 narrow_pack(const float (&from)[kPack<T>]) {
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) pack.v[i] = narrow<T>(from[i]);
  return reinterpret_cast<const uint4&>(pack);
}

// 16 bytes of global memory in one access, which the compiler else takes apart.
template <typename T>
__device__ __forceinline__ void store_wide(T* to, const float (&from)[kPack<T>]) {
  const uint4 v = narrow_pack<T>(from);
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

// Taps of an axis that are the filter's own: all K where Exact. The others are left out, not multiplied by zero: they
// would make inf * 0 of samples that no output meets.
template <int K, bool Exact>
struct FirSupport {
  int begin, end, window;
  __device__ __forceinline__ explicit FirSupport(const FirTileAxis& axis)
      : begin(axis.shift), end(axis.shift + axis.taps), window(axis.window) {}
  __device__ __forceinline__ bool has(int t) const { return t >= 0 && t < K && (Exact || (t >= begin && t < end)); }
  __device__ __forceinline__ bool reads(int n) const { return Exact || n < window; }
};

// What sample n of a window gives to the R outputs that share it.
template <int U, int D, typename Support, int R, int V>
__device__ __forceinline__ void add_sample(int n, const float (&x)[V], const float* w, const Support& support,
                                           float (&sums)[R][V]) {
#pragma unroll
  for (int g = 0; g < R; ++g) {
    const int t = U * n - g * D;
    if (!support.has(t)) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) sums[g][i] += w[t] * x[i];
  }
}

template <int R, int V>
__device__ __forceinline__ void clear(float (&sums)[R][V]) {
#pragma unroll
  for (int g = 0; g < R; ++g) {
#pragma unroll
    for (int i = 0; i < V; ++i) sums[g][i] = 0.f;
  }
}

// The group of rows of x that group j of rows of y begins at.
__device__ __forceinline__ int group_in(const FirTileParams& p, int j) {
  const int plane = j >> p.plane_groups_shift;
  return plane * p.by_plane_groups.by + (j - (plane << p.plane_groups_shift));
}

// Every pack of the tile filtered down: put(slot of the output row, pack of the row, sums).
template <typename T, int U, int D, int K, int R, bool Exact, typename Put>
__device__ __forceinline__ void filter_down(const FirTileParams& p, const uint4* raw, const float* filter, Put put) {
  constexpr int kSamples = ((R - 1) * D + K - 1) / U + 1;
  static_assert(kSamples <= kFirRows, "offsets of the rows");
  const FirSupport<K, Exact> support(p.v);
  const int groups = 1 << p.groups_shift;
  float w[K];
#pragma unroll
  for (int t = 0; t < K; ++t) w[t] = filter[t];
  for (int task = threadIdx.x; task < groups * p.packs; task += kFirThreads) {
    const int j = p.by_packs.quotient(task), q = task - j * p.packs;
    const unsigned char* from = reinterpret_cast<const unsigned char*>(raw + group_in(p, j) * p.packs + q);
    float sums[R][kPack<T>];
    clear(sums);
#pragma unroll
    for (int n = 0; n < kSamples; ++n) {
      if (!support.reads(n)) continue;
      float x[kPack<T>];
      widen_pack<T>(*reinterpret_cast<const uint4*>(from + p.row_offset[n]), x);
      add_sample<U, D>(n, x, w, support, sums);
    }
#pragma unroll
    for (int g = 0; g < R; ++g) put(g * groups + j, q, sums[g]);
  }
}

}  // namespace gk
