// upfirdn2d on images of pixels (NHWC) of 16-byte packs of channels.
#pragma once
#include "upfirdn2d_tile.cuh"

namespace gk {

// 16 bytes in one access; left to itself the compiler reads some in parts, whose banks collide.
__device__ __forceinline__ uint4 load_shared(const uint4* from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<u32>(__cvta_generic_to_shared(from))));
  return v;
}

// What a block of upfirdn2d_pixels has in shared memory, and the sums over it. A thread makes a pack of R neighbouring
// pixels of one row, or of R rows where the filter is not separable.
template <typename T, int U, int D, int K, bool Separable>
struct FirPixels {
  static constexpr int V = kPack<T>, R = fir_pixels_at_once(U), Q = R * D / U, kSamples = ((R - 1) * D + K - 1) / U + 1;
  const FirTileParams& p;
  const FirTile tile;
  const i64 channel;  // the first pack of channels
  i64 *rows_in, *rows_out;
  float* weights;
  float4* halves;  // of the sums of a pack, `stride` apart
  uint4* raw;

  __device__ __forceinline__ FirPixels(const FirTileParams& p, unsigned char* shared)
      : p(p),
        tile(tile_of(p)),
        channel(static_cast<i64>(tile.c) * p.lanes),
        rows_in(reinterpret_cast<i64*>(shared)),
        rows_out(rows_in + Q * p.by_groups.by),
        weights(reinterpret_cast<float*>(shared + p.weights_at)),
        halves(reinterpret_cast<float4*>(shared + p.sums_at)),
        raw(reinterpret_cast<uint4*>(shared + p.raw_at)) {}

  __device__ __forceinline__ void load() {
    const int left = tile.x * p.h.step + p.h.first, low = p.lanes - 1;
    const uint4* x = static_cast<const uint4*>(p.x) + left * p.channels + channel;
    const i64 most = p.channels - channel;
    const auto source = [&](int i) -> const uint4* {
      const int slot = p.by_packs.quotient(i), q = i - slot * p.packs, column = q >> p.lanes_shift, lane = q & low;
      const i64 row = rows_in[slot];
      if (row < 0 || lane >= most || column >= p.in_columns) return nullptr;
      if (static_cast<u32>(left + column) >= static_cast<u32>(p.h.in)) return nullptr;
      return x + (row * p.h.in + column) * p.channels + lane;
    };
    copy_in<uint4>(Q * p.by_groups.by * p.packs, source, [&](int i, const uint4& pack) { raw[i] = pack; });
  }

  __device__ __forceinline__ void put(int slot, int columns, int lane, const float (&sums)[R][V]) const {
    const i64 row = rows_out[slot];
    if (row < 0 || channel + lane >= p.channels) return;
    const int x = (tile.x * p.column_groups + columns) * R;
    T* to = static_cast<T*>(p.y) + ((row * p.h.out + x) * p.channels + channel + lane) * V;
#pragma unroll
    for (int g = 0; g < R; ++g)
      if (x + g < p.h.out) store_wide(to + g * p.channels * V, sums[g]);
  }

  template <bool Exact>
  __device__ __forceinline__ void filter() const {
    const int groups = 1 << p.groups_shift, low = p.lanes - 1;
    const FirSupport<K, Exact> support(p.h);
    if constexpr (Separable) {
      filter_down<T, U, D, K, R, Exact>(p, raw, weights + K, [&](int slot, int q, const float (&sums)[V]) {
#pragma unroll
        for (int i = 0; i < V; i += 4)
          halves[i / 4 * p.stride + slot * p.packs + q] = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
      });
      __syncthreads();
      float w[K];
#pragma unroll
      for (int t = 0; t < K; ++t) w[t] = weights[t];
      for (int task = threadIdx.x; task < groups * R * p.column_groups << p.lanes_shift; task += kFirThreads) {
        const int lane = task & low, rest = task >> p.lanes_shift, slot = rest & (groups * R - 1);
        const int columns = rest / R >> p.groups_shift;
        const float4* from = halves + slot * p.packs + (columns * Q << p.lanes_shift) + lane;
        float sums[R][V];
        clear(sums);
#pragma unroll
        for (int n = 0; n < kSamples; ++n) {
          if (!support.reads(n)) continue;
          float x[V];
#pragma unroll
          for (int i = 0; i < V; i += 4) {
            const float4 four = from[i / 4 * p.stride + (n << p.lanes_shift)];
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
          }
          add_sample<U, D>(n, x, w, support, sums);
        }
        put(slot, columns, lane, sums);
      }
    } else {
      const FirSupport<K, Exact> rows(p.v);
      for (int task = threadIdx.x; task < groups * p.column_groups << p.lanes_shift; task += kFirThreads) {
        const int lane = task & low, rest = task >> p.lanes_shift, j = rest & (groups - 1);
        const int columns = rest >> p.groups_shift;
        const uint4* first = raw + j * p.packs + (columns * Q << p.lanes_shift) + lane;
        float sums[R][R][V];
#pragma unroll
        for (int g = 0; g < R; ++g) clear(sums[g]);
#pragma unroll(K == 4 ? 0xffff : 1)
        for (int n = 0; n < kSamples; ++n) {
          if (!rows.reads(n)) continue;
          const uint4* from = first + ((n % Q) * p.by_groups.by + n / Q) * p.packs;
          float w[R][K];
#pragma unroll
          for (int g = 0; g < R; ++g) {
            const int t = U * n - g * D;
#pragma unroll
            for (int i = 0; i < K; ++i) w[g][i] = rows.has(t) ? weights[t * K + i] : 0.f;
          }
#pragma unroll
          for (int m = 0; m < kSamples; ++m) {
            if (!support.reads(m)) continue;
            float x[V];
            widen_pack<T>(load_shared(from + (m << p.lanes_shift)), x);
#pragma unroll
            for (int g = 0; g < R; ++g)
              if (rows.has(U * n - g * D)) add_sample<U, D>(m, x, w[g], support, sums[g]);
          }
        }
#pragma unroll
        for (int g = 0; g < R; ++g) put(g * groups + j, columns, lane, sums[g]);
      }
    }
  }
};

template <typename T, int U, int D, int K, bool Separable>
__global__ void __launch_bounds__(kFirThreads, kFirBlocks<K>)
    upfirdn2d_pixels(const __grid_constant__ FirTileParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  using Pixels = FirPixels<T, U, D, K, Separable>;
  const FirTap<T, K, Separable> tap(p);
  Pixels pixels(p, shared);
  find_rows<Pixels::Q, Pixels::R>(p, pixels.tile, pixels.rows_in, pixels.rows_out);
  __syncthreads();
  pixels.load();
  tap.store(pixels.weights);
  __syncthreads();
  if (p.exact) {
    pixels.template filter<true>();
  } else {
    pixels.template filter<false>();
  }
}

}  // namespace gk
