// A store that the compiler leaves whole.
#pragma once
#include "pack.cuh"

namespace gk {

// N neighbours in one access, named as one: of numbers that a switch leaves the compiler makes stores of their own.
template <typename T, int N>
__device__ __forceinline__ void store_together(T* to, const acc_of<T> (&from)[N]) {
  if constexpr (sizeof(T) * N == 16 || sizeof(T) * N == 8) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = narrow<T>(from[i]);
    if constexpr (sizeof(T) * N == 16) {
      uint4 bits;
      memcpy(&bits, &pack, 16);
      __stwb(reinterpret_cast<uint4*>(to), bits);
    } else {
      uint2 bits;
      memcpy(&bits, &pack, 8);
      __stwb(reinterpret_cast<uint2*>(to), bits);
    }
  } else {
    store_whole<T, N>(to, from);
  }
}

}  // namespace gk
