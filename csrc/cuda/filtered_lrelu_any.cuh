// filtered_lrelu for any factors, filters and dtype.
#pragma once
#include "filtered_lrelu_tile.cuh"

namespace gk {

template <typename T>
struct FilteredAny : FilteredTile<T, 0, 0, kFilteredAnyThreads> {
  using Base = FilteredTile<T, 0, 0, kFilteredAnyThreads>;
  using acc_t = acc_of<T>;
  using Base::at;
  using Base::p;

  __device__ __forceinline__ FilteredAny(const FilteredParams& p, unsigned char* shared) : Base(p, shared) {}

  // Sample k of row r of the upsampled image from rows filtered across, or from x.
  __device__ __forceinline__ acc_t upsample(const acc_t* from, int r, int k, int lane) const {
    int tap_x, tap_y;
    const int y = at.v.meets(p.v, r, tap_y);
    acc_t sum = 0;
    if (p.fuy) {
      const int pitch = p.a_pitch;
      const acc_t* sample = from + y * pitch + lane * p.a_lane + this->place_up(k);
      for (int t = tap_y; t < p.v.taps_up; t += p.v.up, sample += pitch) sum += this->fu[p.h.taps_up + t] * *sample;
      return sum;
    }
    const acc_t* row = from + y * p.x_pitch + lane * p.x_lane + at.h.meets(p.h, k, tap_x);
    for (int t = tap_y; t < p.v.taps_up; t += p.v.up, row += p.x_pitch) {
      const acc_t *sample = row, *taps = this->fu + t * p.h.taps_up;
      for (int s = tap_x; s < p.h.taps_up; s += p.h.up, ++sample) sum += taps[s] * *sample;
    }
    return sum;
  }

  // The upsampled image of the tile, activated.
  __device__ __forceinline__ void make_middle(const acc_t* from, acc_t* to) const {
    const FilteredSlopes<acc_t> slopes(p);
    const int width = p.h.middles << p.lanes_shift, total = p.v.middles * width;
    for (int first = 0; first < total; first += kFilteredAnyThreads) {
      const int task = first + threadIdx.x, own = task < total ? task : total - 1;  // all take part in shuffles
      const int r = p.by_middles.quotient(own), rest = own - r * width;
      const int k = rest >> p.lanes_shift, lane = rest & (p.lanes - 1), row = at.v.middle + r, quad = k & 3;
      const bool inside = static_cast<u32>(at.h.middle + k) < static_cast<u32>(p.h.middle) &&
                          static_cast<u32>(row) < static_cast<u32>(p.v.middle) && lane < at.channels;
      acc_t u = upsample(from, r, k, lane);
      unsigned char* bits = p.bits + this->bits_at(at.h.middle + k, lane) + row * this->bits_row();
      if (p.mode == kReadBits) {
        u = inside ? slopes.apply(u, *bits >> (2 * quad)) : acc_t(0);
      } else {
        u32 code;
        u = slopes.activate(u, code);
        if (!inside) u = 0, code = 0;
        if (p.mode == kWriteBits) {
          code <<= 2 * quad;
          code |= __shfl_xor_sync(0xffffffffu, code, p.lanes);
          code |= __shfl_xor_sync(0xffffffffu, code, 2 * p.lanes);
          if (task < total && quad == 0 && inside && this->owns_column(k) && this->owns_row(r))
            *bits = static_cast<unsigned char>(code);
        }
      }
      if (task < total) to[r * p.u_pitch + lane * p.u_lane + this->place_down(k)] = u;
    }
  }

  __device__ __forceinline__ void down_columns(const acc_t* u, acc_t* to) const {
    const int width = p.h.middles << p.lanes_shift, total = p.v.step * width, pitch = p.u_pitch;
    const acc_t* taps = this->fd + p.h.taps_down;
    for (int i = threadIdx.x; i < total; i += kFilteredAnyThreads) {
      const int row = p.by_middles.quotient(i), rest = i - row * width;
      const int place = this->lane_of(rest) * p.u_lane + this->place_down(rest >> p.lanes_shift);
      const acc_t* sample = u + row * p.v.down * pitch + place;
      acc_t sum = 0;
      for (int t = 0; t < p.v.taps_down; ++t, sample += pitch) sum += taps[t] * *sample;
      to[row * pitch + place] = sum;
    }
  }

  __device__ __forceinline__ void down_whole(const acc_t* u, acc_t* scratch) const {
    const int pitch = p.u_pitch;
    this->write_y(
        [&](int row, int rest) {
          const acc_t *line = u + row * p.v.down * pitch + this->lane_of(rest) * p.u_lane + (rest >> p.lanes_shift),
                      *taps = this->fd;
          acc_t sum = 0;
          for (int y = 0; y < p.v.taps_down; ++y, line += pitch, taps += p.h.taps_down)
            sum = this->sum_across(line, taps, sum);
          return sum;
        },
        scratch);
  }
};

template <typename T>
__global__ void __launch_bounds__(kFilteredAnyThreads, 4) filtered_lrelu_any(const __grid_constant__ FilteredParams p) {
  extern __shared__ __align__(16) unsigned char shared[];
  const FilteredAny<T> tile(p, shared);
  tile.read_filters();
  tile.read_x(p.fuy ? tile.near : tile.far);
  __syncthreads();
  if (p.fuy) {
    tile.across_up(tile.near, tile.far);
    __syncthreads();
  }
  tile.make_middle(tile.far, tile.near);
  __syncthreads();
  if (p.fdy) {
    tile.down_columns(tile.near, tile.far);
    __syncthreads();
    tile.across_down(tile.far, tile.near);
  } else {
    tile.down_whole(tile.near, tile.far);
  }
}

// One number of the upsampled image, from x in global memory.
template <typename T>
__device__ __forceinline__ acc_of<T> upsampled(const FilteredParams& p, i64 plane, i64 channel, int r, int k) {
  using acc_t = acc_of<T>;
  const T* x = static_cast<const T*>(p.x) + plane * p.v.in * p.h.in * p.channels + channel;
  const acc_t bias = p.bias ? widen(static_cast<const T*>(p.bias)[feature_of(p, plane, channel)]) : acc_t(0);
  const auto first = [](const FilteredAxis& axis, int middle, int& tap) {
    const int at = middle - axis.pad_up, n = at >= 0 ? (at + axis.up - 1) / axis.up : -(-at / axis.up);
    tap = n * axis.up - at;
    return n;
  };
  int tap_x, tap_y;
  const int left = first(p.h, k, tap_x);
  int y = first(p.v, r, tap_y);
  acc_t sum = 0;
  for (int ty = tap_y; ty < p.v.taps_up; ty += p.v.up, ++y) {
    if (y < 0 || y >= p.v.in) continue;
    const int row = p.flip ? ty : p.v.taps_up - 1 - ty;
    acc_t line = 0;
    for (int tx = tap_x, ix = left; tx < p.h.taps_up; tx += p.h.up, ++ix) {
      if (ix < 0 || ix >= p.h.in) continue;
      const int column = p.flip ? tx : p.h.taps_up - 1 - tx;
      const acc_t w = tap_at<T>(p.fu, p.float_up, p.fuy ? column : static_cast<i64>(row) * p.h.taps_up + column);
      line += w * (widen(x[(static_cast<i64>(y) * p.h.in + ix) * p.channels]) + bias);
    }
    sum += line * (p.fuy ? tap_at<T>(p.fuy, p.float_up, row) : acc_t(1));
  }
  return static_cast<acc_t>(p.up_gain) * sum;
}

// A number of y, or a byte of bits, a thread, all of one channel of one plane a block: each sample of the upsampled
// image is made anew for every output that meets it.
template <typename T>
__global__ void __launch_bounds__(kFilteredAnyThreads) filtered_lrelu_direct(const __grid_constant__ FilteredParams p) {
  using acc_t = acc_of<T>;
  __shared__ double shared[kFirThreads / 32];
  static_assert(kFilteredAnyThreads == kFirThreads, "sum_of_block");
  const FilteredSlopes<acc_t> slopes(p);
  const i64 all = p.tiles_x.quotient(blockIdx.x), plane = p.tiles_c.quotient(all), channel = all - plane * p.tiles_c.by;
  const i64 part = blockIdx.x - all * p.tiles_x.by, pixels = static_cast<i64>(p.v.out) * p.h.out;
  const i64 i = part * kFilteredAnyThreads + threadIdx.x;
  acc_t number = 0;
  const i64 bits = plane * p.v.middle * p.bit_bytes * p.channels + channel;
  if (i < pixels) {
    const int oy = static_cast<int>(i / p.h.out), ox = static_cast<int>(i - static_cast<i64>(oy) * p.h.out);
    for (int ty = 0; ty < p.v.taps_down; ++ty) {
      const int r = oy * p.v.down - p.v.pad_down + ty;
      if (r < 0 || r >= p.v.middle) continue;
      const int row = p.flip ? ty : p.v.taps_down - 1 - ty;
      acc_t line = 0;
      for (int tx = 0; tx < p.h.taps_down; ++tx) {
        const int k = ox * p.h.down - p.h.pad_down + tx;
        if (k < 0 || k >= p.h.middle) continue;
        acc_t u = upsampled<T>(p, plane, channel, r, k);
        u32 code;
        if (p.mode == kReadBits) {
          u = slopes.apply(u, p.bits[bits + (r * p.bit_bytes + (k >> 2)) * p.channels] >> (2 * (k & 3)));
        } else {
          u = slopes.activate(u, code);
        }
        const int column = p.flip ? tx : p.h.taps_down - 1 - tx;
        line += u * tap_at<T>(p.fd, p.float_down, p.fdy ? column : static_cast<i64>(row) * p.h.taps_down + column);
      }
      number += line * (p.fdy ? tap_at<T>(p.fdy, p.float_down, row) : acc_t(1));
    }
    if (p.y) static_cast<T*>(p.y)[(plane * pixels + i) * p.channels + channel] = narrow<T>(number);
  } else if (p.mode == kWriteBits && i - pixels < p.v.middle * p.bit_bytes) {
    const i64 byte = i - pixels;
    const int r = static_cast<int>(byte / p.bit_bytes), k = static_cast<int>(byte - r * p.bit_bytes) * 4;
    u32 word = 0;
    for (int j = 0; j < 4 && k + j < p.h.middle; ++j) {
      u32 code;
      slopes.activate(upsampled<T>(p, plane, channel, r, k + j), code);
      word |= code << (2 * j);
    }
    p.bits[bits + byte * p.channels] = static_cast<unsigned char>(word);
  }
  if (!p.sums) return;
  const double total = sum_of_block(number, shared);
  if (threadIdx.x == 0) static_cast<acc_t*>(p.sums)[sums_at(p, plane, channel, part)] = static_cast<acc_t>(total);
}

}  // namespace gk
