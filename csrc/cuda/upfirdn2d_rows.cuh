// upfirdn2d on planes of rows (NCHW), cut in 16-byte packs.
#pragma once
#include "upfirdn2d_tile.cuh"

namespace gk {

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

// The samples that V outputs of a row meet, and their sums with K taps.
template <int U, int D, int K, int V, bool Exact>
struct FirWindow {
  static constexpr int kSamples = ((V - 1) * D + K - 1) / U + 1;
  static_assert(kSamples <= kFirWindow, "offsets of the samples");
  float x[kSamples];
  FirSupport<K, Exact> support;

  __device__ __forceinline__ explicit FirWindow(const FirTileParams& p) : support(p.h) {}
  __device__ __forceinline__ void load(const FirTileParams& p, const float* row) {
    const unsigned char* from = reinterpret_cast<const unsigned char*>(row);
#pragma unroll
    for (int n = 0; n < kSamples; ++n)
      x[n] = support.reads(n) ? *reinterpret_cast<const float*>(from + p.offset[n]) : 0.f;
  }
  __device__ __forceinline__ void filter(const float* taps, float (&sums)[V]) const {
#pragma unroll
    for (int part = 0; part < K; part += 4) {
      const float4 four = reinterpret_cast<const float4*>(taps)[part / 4];
      const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = part + i;
        if (!support.has(t)) continue;
#pragma unroll
        for (int g = 0; g < V; ++g)
          if ((t + g * D) % U == 0) sums[g] += w[i] * x[(t + g * D) / U];
      }
    }
  }
};

// What a block of upfirdn2d_rows has in shared memory, and the sums over it. A thread makes a pack of one row's
// outputs, or of R rows' where the filter is not separable.
template <typename T, int U, int D, int K, bool Separable>
struct FirRows {
  static constexpr int V = kPack<T>, P = V * D / U, R = fir_rows_at_once(V, U, Separable), Q = R * D / U;
  const FirTileParams& p;
  const FirTile tile;
  i64 *rows_in, *rows_out;
  float *weights, *planes;
  uint4 *raw, *staged;

  __device__ __forceinline__ FirRows(const FirTileParams& p, unsigned char* shared)
      : p(p),
        tile(tile_of(p)),
        rows_in(reinterpret_cast<i64*>(shared)),
        rows_out(rows_in + Q * p.by_groups.by),
        weights(reinterpret_cast<float*>(shared + p.weights_at)),
        planes(reinterpret_cast<float*>(shared + p.sums_at)),
        raw(reinterpret_cast<uint4*>(shared + p.raw_at)),
        staged(reinterpret_cast<uint4*>(shared + p.staged_at)) {}

  __device__ __forceinline__ void load() {
    const int total = Q * p.by_groups.by * p.packs, left = tile.x * p.h.step + p.h.first;
    const T* x = static_cast<const T*>(p.x) + left;
    if (p.wide_in) {
      const auto source = [&](int i) -> const uint4* {
        const int slot = p.by_packs.quotient(i), at = (i - slot * p.packs) * V;
        const i64 row = rows_in[slot];
        if (row < 0 || static_cast<u32>(left + at) >= static_cast<u32>(p.h.in)) return nullptr;
        return reinterpret_cast<const uint4*>(x + row * p.h.in + at);
      };
      copy_in<uint4>(total, source, [&](int i, const uint4& pack) {
        if constexpr (Separable) {
          raw[i] = pack;
        } else {
          const int slot = p.by_packs.quotient(i);
          float numbers[V];
          widen_pack<T>(pack, numbers);
          deal<P>(planes + slot * p.pitch, p.stride, i - slot * p.packs, numbers);
        }
      });
    } else {
      const auto source = [&](int i) -> const T* {
        const int slot = p.by_packs.quotient(i / V), at = i - slot * p.packs * V;
        const i64 row = rows_in[slot];
        if (row < 0 || static_cast<u32>(left + at) >= static_cast<u32>(p.h.in)) return nullptr;
        return x + row * p.h.in + at;
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
  }

  __device__ __forceinline__ void put(int slot, int lane, const float (&sums)[V]) const {
    const i64 row = rows_out[slot];
    const int x = (tile.x * p.lanes + lane) * V;
    if (row < 0 || x >= p.h.out) return;
    if (p.wide_out) {
      store_wide(static_cast<T*>(p.y) + row * p.h.out + x, sums);
    } else {
      staged[slot * p.lanes + lane] = narrow_pack<T>(sums);
    }
  }

  template <bool Exact>
  __device__ __forceinline__ void filter() const {
    const int width = p.by_width.by, groups = 1 << p.groups_shift;
    FirWindow<U, D, K, V, Exact> window(p);
    if constexpr (Separable) {
      filter_down<T, U, D, K, R, Exact>(p, raw, weights + K, [&](int slot, int q, const float (&sums)[V]) {
        deal<P>(planes + slot * p.pitch, p.stride, q, sums);
      });
      __syncthreads();
      for (int task = threadIdx.x; task < groups * R * width; task += kFirThreads) {
        const int slot = p.by_width.quotient(task), lane = task - slot * width;
        if (lane >= p.lanes) continue;
        float sums[1][V];
        clear(sums);
        window.load(p, planes + slot * p.pitch + lane);
        window.filter(weights, sums[0]);
        put(slot, lane, sums[0]);
      }
    } else {
      const FirSupport<K, Exact> support(p.v);
      for (int task = threadIdx.x; task < groups * width; task += kFirThreads) {
        const int j = p.by_width.quotient(task), lane = task - j * width;
        if (lane >= p.lanes) continue;
        const float* first = planes + group_in(p, j) * p.pitch + lane;
        float sums[R][V];
        clear(sums);
#pragma unroll(K == 4 && D == 1 ? 0xffff : 1)
        for (int n = 0; n < ((R - 1) * D + K - 1) / U + 1; ++n) {
          if (!support.reads(n)) continue;
          window.load(p, first + ((n % Q) * p.by_groups.by + n / Q) * p.pitch);
#pragma unroll
          for (int g = 0; g < R; ++g) {
            const int t = U * n - g * D;
            if (support.has(t)) window.filter(weights + t * K, sums[g]);
          }
        }
#pragma unroll
        for (int g = 0; g < R; ++g) put(g * groups + j, lane, sums[g]);
      }
    }
  }

  // Rows that cannot be written 16 bytes at a time, number by number.
  __device__ __forceinline__ void unstage() const {
    const int columns = p.lanes * V;
    for (int i = threadIdx.x; i < (R << p.groups_shift) * columns; i += kFirThreads) {
      const int slot = i / V >> p.lanes_shift, x = tile.x * columns + i - slot * columns;
      const i64 row = rows_out[slot];
      if (row >= 0 && x < p.h.out) static_cast<T*>(p.y)[row * p.h.out + x] = reinterpret_cast<const T*>(staged)[i];
    }
  }
};

template <typename T, int U, int D, int K, bool Separable>
__global__ void __launch_bounds__(kFirThreads, kFirBlocks<K>) upfirdn2d_rows(const __grid_constant__ FirTileParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  using Rows = FirRows<T, U, D, K, Separable>;
  const FirTap<T, K, Separable> tap(p);
  Rows rows(p, shared);
  find_rows<Rows::Q, Rows::R>(p, rows.tile, rows.rows_in, rows.rows_out);
  __syncthreads();
  rows.load();
  tap.store(rows.weights);
  __syncthreads();
  if (p.exact) {
    rows.template filter<true>();
  } else {
    rows.template filter<false>();
  }
  if (p.wide_out) return;
  __syncthreads();
  rows.unstage();
}

}  // namespace gk
