// minibatch_stddev's kernels: a pass over x for the value or a derivative, the planes of y, the sums of gy's planes.
#pragma once
#include "minibatch_stddev_params.h"
#include "pack.cuh"

namespace gk {

// The sum over a block, given to every thread. One use a kernel.
template <typename acc_t>
__device__ __forceinline__ acc_t sum_of_block(acc_t value) {
  __shared__ acc_t warps[kStddevThreads / 32];
#pragma unroll
  for (int apart = 16; apart; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (int i = 0; i < kStddevThreads / 32; ++i) value += warps[i];
  return value;
}

template <typename T, int V>
__device__ __forceinline__ void store_some(T* to, const acc_of<T> (&from)[V]) {
  if constexpr (V == 1) {
    *to = narrow<T>(from[0]);
  } else {
    store_16_bytes(to, from);
  }
}

// The group's samples at V positions: the first few are held as they lie in memory, the rest read anew each time they
// are walked over.
template <typename T, int V>
struct GroupRows {
  static constexpr int kHeld = 4;
  using Row = acc_of<T>[V];
  const T* from;
  i64 stride, group;
  Pack<T, V> held[kHeld];

  __device__ __forceinline__ GroupRows(const T* from, i64 stride, i64 group)
      : from(from), stride(stride), group(group) {
#pragma unroll
    for (int g = 0; g < kHeld; ++g)
      if (g < group) held[g] = load_whole<T, V>(from + g * stride);
  }

  // Each walk over 16-bit samples widens them anew: kept from one to the next, the floats would not fit registers.
  static __device__ __forceinline__ void widen_anew(Pack<T, V> pack, Row& to) {
    if constexpr (sizeof(T) == 2 && V == kPack<T>) {
      uint4 bits;
      memcpy(&bits, &pack, 16);
      asm volatile("" : "+r"(bits.x), "+r"(bits.y), "+r"(bits.z), "+r"(bits.w));
      memcpy(&pack, &bits, 16);
    }
    widen<T, V>(pack, to);
  }
  __device__ __forceinline__ void read(i64 g, Row& to) const { widen<T, V>(load_whole<T, V>(from + g * stride), to); }

  // f(number in the group, V values)
  template <class F>
  __device__ __forceinline__ void each(F f) const {
    Row row;
#pragma unroll
    for (int g = 0; g < kHeld; ++g) {
      if (g >= group) continue;
      widen_anew(held[g], row);
      f(static_cast<i64>(g), row);
    }
#pragma unroll 1
    for (i64 g = kHeld; g < group; ++g) {
      read(g, row);
      f(g, row);
    }
  }

  // f(number in the group, V values, V of `other`)
  template <class F>
  __device__ __forceinline__ void each_with(const GroupRows& other, F f) const {
    Row row, second;
#pragma unroll
    for (int g = 0; g < kHeld; ++g) {
      if (g >= group) continue;
      widen_anew(held[g], row);
      widen_anew(other.held[g], second);
      f(static_cast<i64>(g), row, second);
    }
#pragma unroll 1
    for (i64 g = kHeld; g < group; ++g) {
      read(g, row);
      other.read(g, second);
      f(g, row, second);
    }
  }

  // Means of the differences from the first sample: where samples are alike those are exact, their mean is not.
  __device__ __forceinline__ void centre(Row& mean) const {
#pragma unroll
    for (int i = 0; i < V; ++i) mean[i] = 0;
    each([&](i64, const Row& row) {
#pragma unroll
      for (int i = 0; i < V; ++i) mean[i] += row[i] - widen(held[0].v[i]);
    });
#pragma unroll
    for (int i = 0; i < V; ++i) mean[i] /= static_cast<acc_of<T>>(group);
  }
  __device__ __forceinline__ acc_of<T> centred(acc_of<T> value, const Row& mean, int i) const {
    return (value - widen(held[0].v[i])) - mean[i];
  }
};

// With d = x - mean: K 0 copies x to y and sums s = sqrt(mean(d^2) + eps); K 1 gives gx; K 2 gives the second
// derivative's gx, copies v to y and sums mean(v d) / s. A block has a piece of a lot's part.
template <typename T, int K, int V>
__global__ void __launch_bounds__(kStddevThreads, K == 2 || sizeof(T) == 8 ? 2 : 3)
    minibatch_stddev_pass(const __grid_constant__ StddevParams p) {
  using acc_t = acc_of<T>;
  const StddevLayout& l = p.layout;
  const i64 lot = p.splits.quotient(blockIdx.x), split = blockIdx.x - lot * p.splits.by;
  const i64 first = p.channels.quotient(lot), part = lot - first * l.channels;
  const i64 begin = split * p.piece, end = begin + p.piece < l.count ? begin + p.piece : l.count;
  const i64 x_step = l.lots * l.x_sample, y_step = l.lots * l.y_sample;
  const acc_t scale = K > 0 ? static_cast<const acc_t*>(p.scales)[lot] : acc_t(0);
  acc_t total = 0;
#pragma unroll 1
  for (i64 k = begin + threadIdx.x * V; k < end; k += kStddevThreads * V) {
    const i64 run = p.run.quotient(k), in_run = k - run * l.run;
    const i64 at = first * l.x_sample + part * l.x_part + run * l.x_run + in_run;
    const i64 to = first * l.y_sample + part * l.y_part + run * l.y_run + in_run;
    const GroupRows<T, V> x(static_cast<const T*>(p.x) + at, x_step, l.group);
    acc_t mean[V], s[V];
    x.centre(mean);
#pragma unroll
    for (int i = 0; i < V; ++i) s[i] = 0;
    x.each([&](i64, const acc_t(&row)[V]) {
#pragma unroll
      for (int i = 0; i < V; ++i) s[i] += x.centred(row[i], mean, i) * x.centred(row[i], mean, i);
    });
#pragma unroll
    for (int i = 0; i < V; ++i) s[i] = sqrt(s[i] / static_cast<acc_t>(l.group) + static_cast<acc_t>(kStddevEps));
    if constexpr (K == 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) total += s[i];
      x.each([&](i64 g, const acc_t(&row)[V]) { store_some<T, V>(static_cast<T*>(p.y) + to + g * y_step, row); });
    } else if constexpr (K == 1) {
      x.each([&](i64 g, const acc_t(&row)[V]) {
        acc_t out[V];
        widen<T, V>(load_whole<T, V>(static_cast<const T*>(p.gy) + to + g * y_step), out);
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] += scale / s[i] * x.centred(row[i], mean, i);
        store_some<T, V>(static_cast<T*>(p.gx) + at + g * x_step, out);
      });
    } else {
      const GroupRows<T, V> v(static_cast<const T*>(p.v) + at, x_step, l.group);
      acc_t v_mean[V], q[V];
      v.centre(v_mean);
#pragma unroll
      for (int i = 0; i < V; ++i) q[i] = 0;
      x.each_with(v, [&](i64, const acc_t(&row)[V], const acc_t(&w)[V]) {
#pragma unroll
        for (int i = 0; i < V; ++i) q[i] += v.centred(w[i], v_mean, i) * x.centred(row[i], mean, i);
      });
#pragma unroll
      for (int i = 0; i < V; ++i) {
        q[i] /= static_cast<acc_t>(l.group) * s[i];
        total += q[i];
        q[i] /= s[i];
      }
      x.each_with(v, [&](i64 g, const acc_t(&row)[V], const acc_t(&w)[V]) {
        if (p.y) store_some<T, V>(static_cast<T*>(p.y) + to + g * y_step, w);
        if (!p.gx) return;
        acc_t out[V];
#pragma unroll
        for (int i = 0; i < V; ++i)
          out[i] = scale / s[i] * (v.centred(w[i], v_mean, i) - q[i] * x.centred(row[i], mean, i));
        store_some<T, V>(static_cast<T*>(p.gx) + at + g * x_step, out);
      });
    }
  }
  if constexpr (K != 1) {
    total = sum_of_block(total);
    if (threadIdx.x == 0 && p.sums) static_cast<acc_t*>(p.sums)[blockIdx.x] = total;
  }
}

// Where element i of a lot's planes, [group, pixels], lies in y.
__device__ __forceinline__ i64 plane_at(const StddevParams& p, i64 lot, i64 i) {
  const StddevLayout& l = p.layout;
  const i64 first = p.channels.quotient(lot), part = lot - first * l.channels;
  const i64 g = p.pixels.quotient(i), pixel = i - g * l.pixels;
  return (first + g * l.lots) * l.y_sample + l.first_plane + part * l.plane_stride + pixel * l.pixel_stride;
}

// A block a lot: the mean of its sums, to its planes.
template <typename T>
__global__ void __launch_bounds__(kStddevThreads) minibatch_stddev_fill(const __grid_constant__ StddevParams p) {
  const i64 lot = blockIdx.x;
  acc_of<T> total = 0;
  for (i64 i = threadIdx.x; i < p.splits.by; i += kStddevThreads)
    total += static_cast<const acc_of<T>*>(p.sums)[lot * p.splits.by + i];
  const T value = narrow<T>(sum_of_block(total) / static_cast<acc_of<T>>(p.layout.count));
  for (i64 i = threadIdx.x; i < p.layout.group * p.layout.pixels; i += kStddevThreads)
    static_cast<T*>(p.y)[plane_at(p, lot, i)] = value;
}

// A block a lot: the sum of its planes of gy, over the count and the group.
template <typename T>
__global__ void __launch_bounds__(kStddevThreads) minibatch_stddev_scales(const __grid_constant__ StddevParams p) {
  const i64 lot = blockIdx.x;
  acc_of<T> total = 0;
  for (i64 i = threadIdx.x; i < p.layout.group * p.layout.pixels; i += kStddevThreads)
    total += widen(static_cast<const T*>(p.gy)[plane_at(p, lot, i)]);
  total = sum_of_block(total) / static_cast<acc_of<T>>(p.layout.count) / static_cast<acc_of<T>>(p.layout.group);
  if (threadIdx.x == 0) static_cast<acc_of<T>*>(p.scales)[lot] = total;
}

}  // namespace gk
