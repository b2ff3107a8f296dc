// What memory-bound kernels share: 16-byte packs, conversion to the type of arithmetic, division by a fixed number.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "divider.h"

namespace gk {

// Arithmetic is float, and double for double.
template <typename T>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <typename T>
using acc_of = typename Arithmetic<T>::type;

// By intrinsics: PyTorch's flags take the conversion operators away.
__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ __forceinline__ T narrow(acc_of<T> v) {
  return v;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <typename T, int N = kPack<T>>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// N neighbours in one access; their address is a multiple of their size.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_whole(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <typename T, int N>
__device__ __forceinline__ void widen(const Pack<T, N>& pack, acc_of<T> (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = widen(pack.v[i]);
}
template <typename T, int N>
__device__ __forceinline__ void store_whole(T* to, const acc_of<T> (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// 16 bytes in one access, for kernels in which NVRTC 13 takes store_whole apart.
template <typename T>
__device__ __forceinline__ void store_16_bytes(T* to, const acc_of<T> (&from)[kPack<T>]) {
  Pack<T> pack;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) pack.v[i] = narrow<T>(from[i]);
  uint4 bits;
  memcpy(&bits, &pack, 16);
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(bits.x), "r"(bits.y),
               "r"(bits.z), "r"(bits.w)
               : "memory");
}

// Elements at `first`, `first` + `step`, ...: 16 bytes in one access where step is 1 and `whole` (which includes that
// they are aligned), else one by one up to `end`.
template <typename T>
__device__ __forceinline__ void load_pack(const T* from, i64 first, i64 step, i64 end, bool whole,
                                          acc_of<T> (&to)[kPack<T>]) {
  if (whole) {
    widen<T, kPack<T>>(load_whole<T, kPack<T>>(from + first), to);
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) to[i] = first + i * step < end ? widen(from[first + i * step]) : acc_of<T>(0);
  }
}

template <typename T>
__device__ __forceinline__ void store_pack(T* to, i64 first, i64 step, i64 end, bool whole,
                                           const acc_of<T> (&from)[kPack<T>]) {
  if (whole) {
    store_whole<T, kPack<T>>(to + first, from);
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i)
      if (first + i * step < end) to[first + i * step] = narrow<T>(from[i]);
  }
}

}  // namespace gk
