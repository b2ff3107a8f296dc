// upfirdn2d's kernels for common factors: one launch, one pass, the tile of x in shared memory. A separable filter runs
// down the columns of the tile first, then across; any other takes rows and columns at once.
#pragma once
#include "pack.cuh"
#include "upfirdn2d_any.cuh"
#include "upfirdn2d_params.h"

namespace gk {

struct FirTile {
  i64 plane;  // its first
  i32 x, y, c;
};

__device__ __forceinline__ FirTile tile_of(const FirTileParams& p) {
  const i64 i = blockIdx.x, yc = p.tiles_x.quotient(i), c = p.tiles_y.quotient(yc), plane = p.tiles_c.quotient(c);
  return {plane * p.tile_planes, static_cast<i32>(i - yc * p.tiles_x.by), static_cast<i32>(yc - c * p.tiles_y.by),
          static_cast<i32>(c - plane * p.tiles_c.by)};
}

// Taps in correlation order behind `shift` zeros, with the gain: [K] across and [K] down, or [K, K].
template <typename T, int K, bool Separable>
__device__ __forceinline__ void load_filter(const FirTileParams& p, float* to) {
  for (int i = threadIdx.x; i < (Separable ? 2 * K : K * K); i += kFirThreads) {
    const int part = i / K, x = i % K - (Separable && part ? p.v.shift : p.h.shift), y = part - p.v.shift;
    const int taps = Separable && part ? p.v.taps : p.h.taps;
    bool inside = x >= 0 && x < taps;
    i64 at = p.flip ? x : taps - 1 - x;
    if (!Separable) {
      inside = inside && y >= 0 && y < p.v.taps;
      at += static_cast<i64>(p.flip ? y : p.v.taps - 1 - y) * taps;
    }
    const double gain = Separable && !part ? 1.0 : p.gain;
    const void* from = Separable && part ? p.fy : p.f;
    to[i] = inside ? static_cast<float>(gain * tap_at<T>(from, p.float_filter, at)) : 0.f;
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

// The row of x in slot `slot` of the tile, or null. Slots are ordered by row modulo Q, then plane, then row.
template <typename T, int Q>
__device__ __forceinline__ const T* row_of(const FirTileParams& p, const FirTile& tile, int slot) {
  const int residue = p.by_groups.quotient(slot), group = slot - residue * p.by_groups.by;
  const int plane = p.by_plane_groups.quotient(group), row = (group - plane * p.by_plane_groups.by) * Q + residue;
  const int y = tile.y * p.v.step + p.v.first + row;
  if (row >= p.in_rows || y < 0 || y >= p.v.in || tile.plane + plane >= p.planes) return nullptr;
  return static_cast<const T*>(p.x) + ((tile.plane + plane) * p.v.in + y) * p.h.in * p.channels;
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

// What sample n of a window gives to the R outputs that share it. Taps beyond the filter's own are left out: they would
// make inf * 0 of samples that no output meets.
template <int U, int D, int K, int R, int V>
__device__ __forceinline__ void add_sample(int n, const float (&x)[V], const float* w, int begin, int end,
                                           float (&sums)[R][V]) {
#pragma unroll
  for (int g = 0; g < R; ++g) {
    const int t = U * n - g * D;
    if (t < 0 || t >= K || t < begin || t >= end) continue;
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

// Every pack of the tile filtered down: put(slot of the output row, pack of the row, sums).
template <typename T, int U, int D, int K, int R, typename Put>
__device__ __forceinline__ void filter_down(const FirTileParams& p, const uint4* raw, const float* filter, Put put) {
  constexpr int Q = R * D / U, kSamples = ((R - 1) * D + K - 1) / U + 1;
  const int groups = 1 << p.groups_shift, in_groups = p.by_groups.by, begin = p.v.shift, end = begin + p.v.taps;
  float w[K];
#pragma unroll
  for (int t = 0; t < K; ++t) w[t] = filter[t];
  for (int task = threadIdx.x; task < groups * p.packs; task += kFirThreads) {
    const int j = p.by_packs.quotient(task), q = task - j * p.packs, plane = j >> p.plane_groups_shift;
    const int group = plane * p.by_plane_groups.by + (j - (plane << p.plane_groups_shift));
    float sums[R][kPack<T>];
    clear(sums);
#pragma unroll
    for (int n = 0; n < kSamples; ++n) {
      if (n < p.v.window) {
        float x[kPack<T>];
        widen_pack<T>(raw[((n % Q) * in_groups + group + n / Q) * p.packs + q], x);
        add_sample<U, D, K>(n, x, w, begin, end, sums);
      }
    }
#pragma unroll
    for (int g = 0; g < R; ++g) put(g * groups + j, q, sums[g]);
  }
}

// Row `row` of plane `plane` of the tile's output, whose slots are ordered as those of x.
struct FirRow {
  int plane, row;
  i64 y;  // the row of the tensor, planes stacked; negative outside
};
template <int R>
__device__ __forceinline__ FirRow output_row(const FirTileParams& p, const FirTile& tile, int j, int g) {
  const int plane = j >> p.plane_groups_shift, row = (j - (plane << p.plane_groups_shift)) * R + g;
  const int y = tile.y * p.rows + row;
  const bool inside = y < p.v.out && tile.plane + plane < p.planes;
  return {plane, row, inside ? (tile.plane + plane) * p.v.out + y : -1};
}

// A pack's numbers dealt out to P planes in turn.
template <int P, int V>
__device__ __forceinline__ void deal(float* row, int stride, int q, const float (&x)[V]) {
  if constexpr (P >= V) {
    float* to = row + q / (P / V) + q % (P / V) * V * stride;
#pragma unroll
    for (int i = 0; i < V; ++i) to[i * stride] = x[i];
  } else if constexpr (V / P == 2) {
#pragma unroll
    for (int i = 0; i < P; ++i) reinterpret_cast<float2*>(row + i * stride)[q] = make_float2(x[i], x[i + P]);
  } else {
    static_assert(V / P == 4, "up to 4 numbers of a pack in a plane");
#pragma unroll
    for (int i = 0; i < P; ++i)
      reinterpret_cast<float4*>(row + i * stride)[q] = make_float4(x[i], x[i + P], x[i + 2 * P], x[i + 3 * P]);
  }
}

// The window of one row's V outputs, and their sums with K taps.
template <int U, int D, int K, int V>
struct FirWindow {
  static constexpr int kSamples = ((V - 1) * D + K - 1) / U + 1;
  float x[kSamples];

  __device__ __forceinline__ void load(const FirTileParams& p, const float* row) {
#pragma unroll
    for (int n = 0; n < kSamples; ++n) x[n] = n < p.h.window ? row[p.offset[n]] : 0.f;
  }
  __device__ __forceinline__ void filter(const FirTileParams& p, const float* taps, float (&sums)[V]) const {
#pragma unroll
    for (int part = 0; part < K; part += 4) {
      const float4 four = reinterpret_cast<const float4*>(taps)[part / 4];
      const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = part + i;
        if (t < p.h.shift || t >= p.h.shift + p.h.taps) continue;
#pragma unroll
        for (int g = 0; g < V; ++g)
          if ((t + g * D) % U == 0) sums[g] += w[i] * x[(t + g * D) / U];
      }
    }
  }
};

// Rows of planes. A thread makes a pack of one row's outputs, or of R rows' where the filter is not separable.
template <typename T, int U, int D, int K, bool Separable>
__global__ void __launch_bounds__(kFirThreads) upfirdn2d_rows(const __grid_constant__ FirTileParams p) {
  constexpr int V = kPack<T>, P = V * D / U, R = Separable ? 4 : 2, Q = R * D / U;
  extern __shared__ __align__(16) unsigned char shared[];
  float* weights = reinterpret_cast<float*>(shared);
  float* planes = reinterpret_cast<float*>(shared + p.sums_at);
  uint4* raw = reinterpret_cast<uint4*>(shared + p.raw_at);
  uint4* staged = reinterpret_cast<uint4*>(shared + p.staged_at);
  const FirTile tile = tile_of(p);
  const int groups = 1 << p.groups_shift, in_groups = p.by_groups.by, total = Q * in_groups * p.packs;
  const int left = tile.x * p.h.step + p.h.first;
  load_filter<T, K, Separable>(p, weights);
  if (p.wide_in) {
    const auto source = [&](int i) -> const uint4* {
      const int slot = p.by_packs.quotient(i), x = left + (i - slot * p.packs) * V;
      const T* row = x >= 0 && x < p.h.in ? row_of<T, Q>(p, tile, slot) : nullptr;
      return row ? reinterpret_cast<const uint4*>(row + x) : nullptr;
    };
    copy_in<uint4>(total, source, [&](int i, const uint4& pack) {
      if constexpr (Separable) {
        raw[i] = pack;
      } else {
        const int slot = p.by_packs.quotient(i);
        float x[V];
        widen_pack<T>(pack, x);
        deal<P>(planes + slot * p.pitch, p.stride, i - slot * p.packs, x);
      }
    });
  } else {
    const auto source = [&](int i) -> const T* {
      const int slot = p.by_packs.quotient(i / V), x = left + i - slot * p.packs * V;
      const T* row = x >= 0 && x < p.h.in ? row_of<T, Q>(p, tile, slot) : nullptr;
      return row ? row + x : nullptr;
    };
    copy_in<T>(total * V, source, [&](int i, T number) {
      if constexpr (Separable) {
        reinterpret_cast<T*>(raw)[i] = number;
      } else {
        const int slot = p.by_packs.quotient(i / V), column = i - slot * p.packs * V;
        planes[slot * p.pitch + column % P * p.stride + column / P] = widen(number);
      }
    });
  }
  __syncthreads();
  const auto put = [&](const FirRow& row, int lane, const float (&sums)[V]) {
    const i64 x = (static_cast<i64>(tile.x) * p.lanes + lane) * V;
    if (row.y < 0 || x >= p.h.out) return;
    if (p.wide_out) {
      store_wide(static_cast<T*>(p.y) + row.y * p.h.out + x, sums);
    } else {
      staged[(row.plane * p.rows + row.row) * p.lanes + lane] = narrow_pack<T>(sums);
    }
  };
  const int width = p.by_width.by;
  FirWindow<U, D, K, V> window;
  if constexpr (Separable) {
    filter_down<T, U, D, K, R>(p, raw, weights + K, [&](int slot, int q, const float (&sums)[V]) {
      deal<P>(planes + slot * p.pitch, p.stride, q, sums);
    });
    __syncthreads();
    for (int task = threadIdx.x; task < (groups * R) * width; task += kFirThreads) {
      const int slot = p.by_width.quotient(task), lane = task - slot * width;
      if (lane >= p.lanes) continue;
      float sums[1][V];
      clear(sums);
      window.load(p, planes + slot * p.pitch + lane);
      window.filter(p, weights, sums[0]);
      put(output_row<R>(p, tile, slot & (groups - 1), slot >> p.groups_shift), lane, sums[0]);
    }
  } else {
    for (int task = threadIdx.x; task < groups * width; task += kFirThreads) {
      const int j = p.by_width.quotient(task), lane = task - j * width, plane = j >> p.plane_groups_shift;
      if (lane >= p.lanes) continue;
      const int group = plane * p.by_plane_groups.by + (j - (plane << p.plane_groups_shift));
      float sums[R][V];
      clear(sums);
#pragma unroll 1
      for (int n = 0; n < p.v.window; ++n) {
        window.load(p, planes + ((n % Q) * in_groups + group + n / Q) * p.pitch + lane);
#pragma unroll
        for (int g = 0; g < R; ++g) {
          const int t = U * n - g * D;
          if (t >= p.v.shift && t < p.v.shift + p.v.taps) window.filter(p, weights + t * K, sums[g]);
        }
      }
#pragma unroll
      for (int g = 0; g < R; ++g) put(output_row<R>(p, tile, j, g), lane, sums[g]);
    }
  }
  if (p.wide_out) return;
  __syncthreads();
  const int columns = p.lanes * V, plane_rows = 1 << p.plane_groups_shift;
  for (int i = threadIdx.x; i < groups * R * columns; i += kFirThreads) {
    const int line = i / V >> p.lanes_shift, j = line / R, x = tile.x * columns + i - line * columns;
    const FirRow row = output_row<R>(p, tile, j, line % R);
    if (row.y >= 0 && x < p.h.out) static_cast<T*>(p.y)[row.y * p.h.out + x] = reinterpret_cast<T*>(staged)[i];
  }
}

// Images of pixels of packs of channels. A thread makes a pack of some neighbouring pixels of one row, or of R rows
// where the filter is not separable.
template <typename T, int U, int D, int K, bool Separable>
__global__ void __launch_bounds__(kFirThreads) upfirdn2d_pixels(const __grid_constant__ FirTileParams p) {
  constexpr int V = kPack<T>, R = U > 2 ? 4 : 2, Q = R * D / U, kSamples = ((R - 1) * D + K - 1) / U + 1;
  extern __shared__ __align__(16) unsigned char shared[];
  float* weights = reinterpret_cast<float*>(shared);
  float4* sums_at = reinterpret_cast<float4*>(shared + p.sums_at);
  uint4* raw = reinterpret_cast<uint4*>(shared + p.raw_at);
  const FirTile tile = tile_of(p);
  const int groups = 1 << p.groups_shift, in_groups = p.by_groups.by, low = p.lanes - 1;
  const int left = tile.x * p.h.step + p.h.first, begin = p.h.shift, end = begin + p.h.taps;
  const i64 channel = static_cast<i64>(tile.c) * p.lanes;
  load_filter<T, K, Separable>(p, weights);
  const auto source = [&](int i) -> const uint4* {
    const int slot = p.by_packs.quotient(i), q = i - slot * p.packs, column = q >> p.lanes_shift, x = left + column;
    const i64 pack = channel + (q & low);
    if (column >= p.in_columns || x < 0 || x >= p.h.in || pack >= p.channels) return nullptr;
    const uint4* row = row_of<uint4, Q>(p, tile, slot);
    return row ? row + x * p.channels + pack : nullptr;
  };
  copy_in<uint4>(Q * in_groups * p.packs, source, [&](int i, const uint4& pack) { raw[i] = pack; });
  __syncthreads();
  const auto put = [&](const FirRow& row, int columns, int lane, const float (&sums)[R][V]) {
    if (row.y < 0 || channel + lane >= p.channels) return;
#pragma unroll
    for (int g = 0; g < R; ++g) {
      const int x = (tile.x * p.column_groups + columns) * R + g;
      if (x < p.h.out)
        store_wide(static_cast<T*>(p.y) + ((row.y * p.h.out + x) * p.channels + channel + lane) * V, sums[g]);
    }
  };
  if constexpr (Separable) {
    filter_down<T, U, D, K, R>(p, raw, weights + K, [&](int slot, int q, const float (&sums)[V]) {
#pragma unroll
      for (int i = 0; i < V; i += 4)
        sums_at[i / 4 * p.stride + slot * p.packs + q] = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
    });
    __syncthreads();
    float w[K];
#pragma unroll
    for (int t = 0; t < K; ++t) w[t] = weights[t];
    const int slots = groups * R;
    for (int task = threadIdx.x; task < slots * p.column_groups << p.lanes_shift; task += kFirThreads) {
      const int lane = task & low, slot = (task >> p.lanes_shift) & (slots - 1);
      const int columns = (task >> p.lanes_shift) / R >> p.groups_shift;
      float sums[R][V];
      clear(sums);
#pragma unroll
      for (int n = 0; n < kSamples; ++n) {
        if (n < p.h.window) {
          const float4* from = sums_at + slot * p.packs + ((columns * Q + n) << p.lanes_shift) + lane;
          float x[V];
#pragma unroll
          for (int i = 0; i < V; i += 4) {
            const float4 four = from[i / 4 * p.stride];
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
          }
          add_sample<U, D, K>(n, x, w, begin, end, sums);
        }
      }
      put(output_row<R>(p, tile, slot & (groups - 1), slot >> p.groups_shift), columns, lane, sums);
    }
  } else {
    for (int task = threadIdx.x; task < groups * p.column_groups << p.lanes_shift; task += kFirThreads) {
      const int lane = task & low, j = (task >> p.lanes_shift) & (groups - 1);
      const int columns = task >> p.lanes_shift >> p.groups_shift;
      float sums[R][R][V];
#pragma unroll
      for (int g = 0; g < R; ++g) clear(sums[g]);
#pragma unroll 1
      for (int n = 0; n < p.v.window; ++n) {
        const uint4* from = raw + ((n % Q) * in_groups + j + n / Q) * p.packs + (columns * Q << p.lanes_shift) + lane;
#pragma unroll
        for (int m = 0; m < kSamples; ++m) {
          if (m >= p.h.window) continue;
          float x[V];
          widen_pack<T>(from[m << p.lanes_shift], x);
#pragma unroll
          for (int g = 0; g < R; ++g) {
            const int t = U * n - g * D;
            if (t >= p.v.shift && t < p.v.shift + p.v.taps)
              add_sample<U, D, K>(m, x, weights + t * K, begin, end, sums[g]);
          }
        }
      }
#pragma unroll
      for (int g = 0; g < R; ++g) put(output_row<R>(p, tile, j, g), columns, lane, sums[g]);
    }
  }
}

}  // namespace gk
