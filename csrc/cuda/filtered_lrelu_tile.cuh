// What filtered_lrelu's kernels on tiles share, from x to its samples filtered across, and from the upsampled image
// filtered down to y. A row in shared memory holds one channel after another, and of each the samples of one phase side
// by side, then those of the next: neighbouring threads read and write neighbours, whatever the factors.
#pragma once
#include "filtered_lrelu_params.h"
#include "upfirdn2d_any.cuh"

namespace gk {

// Where a tile is along an axis: its first output, first sample of the upsampled image, the first sample of x that this
// meets, and at which tap.
struct FilteredSpan {
  int out, middle, first, tap;
  bool last;

  __device__ __forceinline__ FilteredSpan(const FilteredAxis& axis, i64 tile)
      : out(static_cast<int>(tile) * axis.step), last(out + axis.step >= axis.out) {
    middle = out * axis.down - axis.pad_down - axis.lead;
    const int at = middle - axis.pad_up;
    first = at >= 0 ? (at + axis.up - 1) / axis.up : -(-at / axis.up);
    tap = first * axis.up - at;
  }
  // The first of x's samples that sample k of the tile meets, and its tap.
  __device__ __forceinline__ int meets(const FilteredAxis& axis, int k, int& at) const {
    const int group = axis.by_up.quotient(k + axis.up - 1 - tap);
    at = axis.up * group + tap - k;
    return group;
  }
};

struct FilteredBlock {
  i64 plane, channel, part;
  FilteredSpan h, v;
  int channels;  // of the tile that there are

  __device__ __forceinline__ explicit FilteredBlock(const FilteredParams& p) : FilteredBlock(p, blockIdx.x) {}
  __device__ __forceinline__ FilteredBlock(const FilteredParams& p, i64 block)
      : FilteredBlock(p, block, p.tiles_x.quotient(block)) {}

 private:
  __device__ __forceinline__ FilteredBlock(const FilteredParams& p, i64 block, i64 yc)
      : FilteredBlock(p, block - yc * p.tiles_x.by, yc, p.tiles_y.quotient(yc)) {}
  __device__ __forceinline__ FilteredBlock(const FilteredParams& p, i64 x, i64 yc, i64 c)
      : plane(p.tiles_c.quotient(c)),
        channel((c - plane * p.tiles_c.by) * p.lanes),
        part((yc - c * p.tiles_y.by) * p.tiles_x.by + x),
        h(p.h, x),
        v(p.v, yc - c * p.tiles_y.by),
        channels(p.channels - channel < p.lanes ? static_cast<int>(p.channels - channel) : p.lanes) {}
};

// Of channel `channel` of a plane: its number among the C, and where its sums are.
__device__ __forceinline__ i64 feature_of(const FilteredParams& p, i64 plane, i64 channel) {
  return p.features.by > 1 ? p.features.remainder(plane) : channel;
}
__device__ __forceinline__ i64 sums_at(const FilteredParams& p, i64 plane, i64 channel, i64 part) {
  return (plane * p.channels + channel) * p.parts + part;  // planes are N, or N * C of one channel
}

template <typename acc_t>
struct FilteredSlopes {
  acc_t above, below, bound;
  __device__ __forceinline__ explicit FilteredSlopes(const FilteredParams& p) {
    if constexpr (sizeof(acc_t) == sizeof(float)) {
      above = p.above_float, below = p.below_float, bound = p.bound_float;
    } else {
      above = p.above, below = p.below, bound = p.bound;
    }
  }
  __device__ __forceinline__ acc_t activate(acc_t u, u32& code) const {
    const acc_t v = u * (u > acc_t(0) ? above : below);
    code = (u > acc_t(0) ? 0 : 1) | (v > bound || v < -bound ? 2 : 0);
    return v > bound ? bound : v < -bound ? -bound : v;
  }
  __device__ __forceinline__ acc_t apply(acc_t u, u32 code) const {
    return code & 2 ? acc_t(0) : u * (code & 1 ? below : above);
  }
};

// A filter's taps in correlation order, times gain: [taps_x] and [taps_y], or [taps_y, taps_x].
template <typename T, int Threads, typename acc_t>
__device__ __forceinline__ void read_taps(const void* f, const void* fy, i32 float_filter, i32 flip, double gain,
                                          int taps_x, int taps_y, acc_t* to) {
  const int total = fy ? taps_x + taps_y : taps_x * taps_y, across = fy ? taps_x : total;
  for (int i = threadIdx.x; i < total; i += Threads) {
    const bool down = i >= across;
    const int n = down ? taps_y : across, at = down ? i - across : i;
    const acc_t tap = tap_at<T>(down ? fy : f, float_filter, flip ? at : n - 1 - at);
    to[i] = fy && !down ? tap : static_cast<acc_t>(gain * tap);
  }
}

// A tile as it goes through shared memory.
template <typename T, int U, int D, int Threads>
struct FilteredTile {
  using acc_t = acc_of<T>;
  const FilteredParams& p;
  const FilteredBlock at;
  acc_t *fu, *fd, *near, *far;

  __device__ __forceinline__ FilteredTile(const FilteredParams& p, unsigned char* shared)
      : p(p),
        at(p),
        fu(reinterpret_cast<acc_t*>(shared)),
        fd(reinterpret_cast<acc_t*>(shared + p.filter_at)),
        near(reinterpret_cast<acc_t*>(shared + p.near_at)),
        far(reinterpret_cast<acc_t*>(shared + p.far_at)) {}

  __device__ __forceinline__ int up() const { return U ? U : p.h.up; }
  __device__ __forceinline__ int down() const { return D ? D : p.h.down; }

  __device__ __forceinline__ void read_filters() const {
    read_taps<T, Threads>(p.fu, p.fuy, p.float_up, p.flip, p.up_gain, p.h.taps_up, p.v.taps_up, fu);
    read_taps<T, Threads>(p.fd, p.fdy, p.float_down, p.flip, 1, p.h.taps_down, p.v.taps_down, fd);
  }

  // x + bias of the tile, zero outside the image; four loads a thread are under way.
  __device__ __forceinline__ void read_x(acc_t* to) const {
    const int width = p.h.samples << p.lanes_shift, total = p.v.samples * width;
    const T* x = static_cast<const T*>(p.x) + at.plane * p.v.in * p.h.in * p.channels + at.channel;
    const int lane = threadIdx.x & (p.lanes - 1);  // of all that a thread reads
    acc_t bias = 0;
    if (p.bias && lane < at.channels)
      bias = widen(static_cast<const T*>(p.bias)[feature_of(p, at.plane, at.channel + lane)]);
    for (int first = threadIdx.x; first < total; first += 4 * Threads) {
      acc_t numbers[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = first + j * Threads, row = p.by_x_row.quotient(i), rest = i - row * width;
        const int ix = at.h.first + (rest >> p.lanes_shift), iy = at.v.first + row;
        const bool inside = static_cast<u32>(ix) < static_cast<u32>(p.h.in) &&
                            static_cast<u32>(iy) < static_cast<u32>(p.v.in) && i < total && lane < at.channels;
        numbers[j] = 0;
        if (!inside) continue;
        numbers[j] = widen(x[(static_cast<i64>(iy) * p.h.in + ix) * p.channels + lane]) + bias;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int i = first + j * Threads, row = p.by_x_row.quotient(i);
        const int rest = i - row * width;
        if (i < total) to[row * p.x_pitch + lane * p.x_lane + (rest >> p.lanes_shift)] = numbers[j];
      }
    }
  }

  __device__ __forceinline__ int lane_of(int rest) const { return rest & (p.lanes - 1); }
  // Where sample k of a row is, whose phases are every n-th and `part` apart.
  template <int N>
  __device__ __forceinline__ int place(int k, const SmallDivider& by, int part) const {
    const int group = N ? k / (N ? N : 1) : by.quotient(k), n = N ? N : by.by;
    return (k - group * n) * part + group;
  }
  __device__ __forceinline__ int place_up(int k) const { return place<U>(k, p.h.by_up, p.a_part); }
  __device__ __forceinline__ int place_down(int k) const { return place<D>(k, p.h.by_down, p.u_part); }

  // Each row of x filtered across: all samples that meet the same ones first by one thread. Zero outside the upsampled
  // image.
  __device__ __forceinline__ void across_up(const acc_t* x, acc_t* to) const {
    const int width = p.h.groups << p.lanes_shift, total = p.v.samples * width, n = up();
    constexpr int K = kFilteredPhase;
    const auto place = [&](int tap) {  // of group 0's sample that meets its first at `tap`; negative before the tile
      const bool before = tap > at.h.tap;
      return (at.h.tap - tap + (before ? n : 0)) * p.a_part - before;
    };
    acc_t w[U ? U * K : 1];
    int places[U ? U : 1];
    if constexpr (U > 0) {
#pragma unroll
      for (int t = 0; t < U * K; ++t) w[t] = fu[t];
#pragma unroll
      for (int tap = 0; tap < U; ++tap) places[tap] = place(tap);
    }
    for (int i = threadIdx.x; i < total; i += Threads) {
      const int row = p.by_a_row.quotient(i), rest = i - row * width, lane = rest & (p.lanes - 1);
      const int group = rest >> p.lanes_shift,
                column = at.h.middle + at.h.tap + n * group;  // less a tap: where it goes
      const acc_t* from = x + row * p.x_pitch + lane * p.x_lane + group;
      acc_t* out = to + row * p.a_pitch + lane * p.a_lane + group;
      if constexpr (U > 0) {
        acc_t samples[K];
#pragma unroll
        for (int t = 0; t < K; ++t) samples[t] = from[t];
#pragma unroll
        for (int tap = 0; tap < U; ++tap) {
          acc_t sum = 0;
#pragma unroll
          for (int t = 0; t < K; ++t) sum += w[tap + t * U] * samples[t];
          const bool inside = static_cast<u32>(column - tap) < static_cast<u32>(p.h.middle);
          if (tap <= at.h.tap || group) out[places[tap]] = inside ? sum : acc_t(0);
        }
      } else {
        for (int tap = 0; tap < n; ++tap) {
          acc_t sum = 0;
          const acc_t* sample = from;
          for (int t = tap; t < p.h.taps_up; t += n, ++sample) sum += fu[t] * *sample;
          const bool inside = static_cast<u32>(column - tap) < static_cast<u32>(p.h.middle);
          if (tap <= at.h.tap || group) out[place(tap)] = inside ? sum : acc_t(0);
        }
      }
    }
  }

  // Where the bits of column `middle` of the tile are in the first row of the image, and from a row to the next.
  __device__ __forceinline__ i64 bits_at(int column, int lane) const {
    return (at.plane * p.v.middle * p.bit_bytes + (column >> 2)) * p.channels + at.channel + lane;
  }
  __device__ __forceinline__ i64 bits_row() const { return p.bit_bytes * p.channels; }
  // Whether this tile writes the bits of column k and of row r: neighbours' tiles overlap.
  __device__ __forceinline__ bool owns_column(int k) const {
    return at.h.middle + k < p.h.middle && (at.h.last || k < p.h.step * down());
  }
  __device__ __forceinline__ bool owns_row(int r) const {
    return at.v.middle + r < p.v.middle && (at.v.last || r < p.v.step * p.v.down);
  }

  // y of sum(row, number of the row): stored, and summed over the tile. `scratch` is for a number a warp and lane.
  template <typename Sum>
  __device__ __forceinline__ void write_y(Sum sum, acc_t* scratch) const {
    const int width = p.h.step << p.lanes_shift, total = p.v.step * width;
    T* y = static_cast<T*>(p.y);
    acc_t all = 0;
    for (int i = threadIdx.x; i < total; i += Threads) {
      const int row = p.by_out.quotient(i), rest = i - row * width;
      const int lane = rest & (p.lanes - 1), oy = at.v.out + row, ox = at.h.out + (rest >> p.lanes_shift);
      if (oy >= p.v.out || ox >= p.h.out || lane >= at.channels) continue;
      const acc_t number = sum(row, rest);
      if (y) y[((at.plane * p.v.out + oy) * p.h.out + ox) * p.channels + at.channel + lane] = narrow<T>(number);
      all += number;
    }
    if (!p.sums) return;
    for (int apart = 16; apart >= p.lanes; apart /= 2) all += __shfl_down_sync(0xffffffffu, all, apart);
    __syncthreads();
    if (threadIdx.x % 32 < p.lanes) scratch[threadIdx.x / 32 * p.lanes + threadIdx.x % 32] = all;
    __syncthreads();
    if (threadIdx.x >= at.channels) return;
    for (int warp = 1; warp < Threads / 32; ++warp) all += scratch[warp * p.lanes + threadIdx.x];
    static_cast<acc_t*>(p.sums)[sums_at(p, at.plane, at.channel + threadIdx.x, at.part)] = all;
  }

  // y from rows that are filtered down.
  __device__ __forceinline__ void across_down(const acc_t* rows, acc_t* scratch) const {
    constexpr int K = kFilteredPhase;
    acc_t w[D ? D * K : 1];
    int places[D ? D : 1];
    if constexpr (D > 0) {
#pragma unroll
      for (int t = 0; t < D * K; ++t) w[t] = fd[t];
#pragma unroll
      for (int m = 0; m < D; ++m) places[m] = place_down(p.h.lead + m);
    }
    write_y(
        [&](int row, int rest) {
          const acc_t* from = rows + row * p.u_pitch + lane_of(rest) * p.u_lane + (rest >> p.lanes_shift);
          acc_t sum = 0;
          if constexpr (D > 0) {
#pragma unroll
            for (int m = 0; m < D; ++m) {
#pragma unroll
              for (int t = 0; t < K; ++t) sum += w[m + t * D] * from[places[m] + t];
            }
            return sum;
          } else {
            return sum_across(from, fd, sum);
          }
        },
        scratch);
  }

  // `sum` and what the taps of a row give to the output whose samples begin `lead` behind `from`.
  __device__ __forceinline__ acc_t sum_across(const acc_t* from, const acc_t* taps, acc_t sum) const {
    for (int m = 0; m < down(); ++m) {
      const acc_t* sample = from + place_down(p.h.lead + m);
      for (int t = m; t < p.h.taps_down; t += down(), ++sample) sum += taps[t] * *sample;
    }
    return sum;
  }
};

}  // namespace gk
