// filtered_lrelu for separable filters of 6 taps a phase: each thread goes down a column of the tile, makes the samples
// of the upsampled image one after another from a window in registers and adds them to the outputs that meet them, so
// that the upsampled image exists in registers only.
#pragma once
#include "filtered_lrelu_tile.cuh"

namespace gk {

// `L` is the tap that row 0 of the tile meets first.
template <typename T, int U, int D, int L>
struct FilteredMarch : FilteredTile<T, U, D, kFilteredThreads> {
  using Base = FilteredTile<T, U, D, kFilteredThreads>;
  using Base::at;
  using Base::p;
  static constexpr int K = kFilteredPhase, S = U > D ? U : D;  // S: rows that bring U and D round
  static_assert(S <= 4, "a row for each of the four lanes that share a byte");

  __device__ __forceinline__ FilteredMarch(const FilteredParams& p, unsigned char* shared) : Base(p, shared) {}

  template <i32 Mode>
  __device__ __forceinline__ void down_columns(const float* a, float* to) const {
    const FilteredSlopes<float> slopes(p);
    const int columns = p.h.middles << p.lanes_shift, steps = (p.v.middles + S - 1) / S, pitch = p.a_pitch;
    const float *taps_up = this->fu + U * K, *taps_down = this->fd + D * K;
    float wu[U * K], wd[D * K];
#pragma unroll
    for (int t = 0; t < U * K; ++t) wu[t] = taps_up[t];
#pragma unroll
    for (int t = 0; t < D * K; ++t) wd[t] = taps_down[t];
    const bool whole = at.v.middle >= 0 && at.v.middle + steps * S <= p.v.middle;  // the tile lies within the image
    for (int first = 0; first < columns; first += kFilteredThreads) {
      const int task = first + threadIdx.x, own = task < columns ? task : columns - 1;  // all take part in shuffles
      const int k = own >> p.lanes_shift, lane = own & (p.lanes - 1), quad = k & 3, column = at.h.middle + k;
      const float* from = a + lane * p.a_lane + this->place_up(k);
      unsigned char* bits = p.bits + this->bits_at(column, lane) + (at.v.middle + quad) * this->bits_row();
      const int byte = k - quad;  // the column that its byte begins with
      const bool writes = task < columns && quad < S && lane < at.channels && this->owns_column(byte);
      const bool reads =
          quad < S && lane < at.channels && static_cast<u32>(at.h.middle + byte) < static_cast<u32>(p.h.middle);
      const auto read_bits = [&](int r) -> u32 {
        return reads && static_cast<u32>(at.v.middle + r + quad) < static_cast<u32>(p.v.middle)
                   ? bits[r * this->bits_row()]
                   : 0;
      };
      constexpr int kHeld = (L + 1) % U ? K : K - 1;  // the row that row 0 meets last comes with row 0 else
      float window[K], sums[K];
#pragma unroll
      for (int t = 0; t < K; ++t) window[t] = t < K - kHeld ? 0.f : from[(t - (K - kHeld)) * pitch], sums[t] = 0.f;
      from += kHeld * pitch;
      u32 next = Mode == kReadBits ? read_bits(0) : 0;
      float* out = to + lane * p.u_lane + this->place_down(k);
      const int outputs = task < columns ? p.v.step : 0;
      int o = 1 - K;  // the output that is complete next
      for (int begin = 0; begin < steps; begin += K) {
#pragma unroll
        for (int j = 0; j < K; ++j) {
          if (begin + j >= steps) break;
          const int r = (begin + j) * S;
          const u32 read = next;
          u32 word = 0;
          if (Mode == kReadBits) next = read_bits(r + S);
#pragma unroll
          for (int i = 0; i < S; ++i) {
            if (i % U == (L + 1) % U) {
#pragma unroll
              for (int t = 0; t + 1 < K; ++t) window[t] = window[t + 1];
              window[K - 1] = *from;
              from += pitch;
            }
            float u = 0.f;
#pragma unroll
            for (int t = 0; t < K; ++t) u += wu[(L + S * U - i) % U + t * U] * window[t];
            u32 code;
            if constexpr (Mode == kReadBits) {
              const int source = (threadIdx.x & 31 & ~(3 << p.lanes_shift)) | (i << p.lanes_shift);
              code = __shfl_sync(0xffffffffu, read, source) >> (2 * quad);
              u = slopes.apply(u, code);
            } else {
              u = slopes.activate(u, code);
              if (Mode == kWriteBits) word |= code << (8 * i + 2 * quad);
            }
            if (!whole && static_cast<u32>(at.v.middle + r + i) >= static_cast<u32>(p.v.middle)) u = 0.f;
            if (i % D == 0) {
#pragma unroll
              for (int t = K - 1; t > 0; --t) sums[t] = sums[t - 1];
              sums[0] = 0.f;
            }
#pragma unroll
            for (int t = 0; t < K; ++t) sums[t] += wd[t * D + i % D] * u;
            if (i % D == D - 1) {
              if (static_cast<u32>(o) < static_cast<u32>(outputs)) {
                *out = sums[K - 1];
                out += p.u_pitch;
              }
              ++o;
            }
          }
          if constexpr (Mode == kWriteBits) {
            word |= __shfl_xor_sync(0xffffffffu, word, p.lanes);
            word |= __shfl_xor_sync(0xffffffffu, word, 2 * p.lanes);
            if (writes && this->owns_row(r + quad))
              bits[r * this->bits_row()] = static_cast<unsigned char>(word >> (8 * quad));
          }
        }
      }
    }
  }
};

template <typename T, int U, int D, int L>
__global__ void __launch_bounds__(kFilteredThreads, 4) filtered_lrelu_tile(const __grid_constant__ FilteredParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const FilteredMarch<T, U, D, L> tile(p, shared);
  tile.read_filters();
  tile.read_x(tile.near);
  __syncthreads();
  tile.across_up(tile.near, tile.far);
  __syncthreads();
  if (p.mode == kReadBits) {
    tile.template down_columns<kReadBits>(tile.far, tile.near);
  } else if (p.mode == kWriteBits) {
    tile.template down_columns<kWriteBits>(tile.far, tile.near);
  } else {
    tile.template down_columns<kNoBits>(tile.far, tile.near);
  }
  __syncthreads();
  tile.across_down(tile.near, tile.far);
}

}  // namespace gk
