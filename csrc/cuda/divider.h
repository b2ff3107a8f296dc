// Division by a number that the host knows, as a multiplication: exact for 0 <= n < 2^63.
#pragma once
#include "launch.h"

#ifdef __CUDACC__
#define GK_DIVIDER_DEVICE __device__ __forceinline__
#endif

namespace gk {

// With 2^(bits - 1) < by <= 2^bits and magic = ceil(2^(63 + bits) / by), n / by = n * magic >> (63 + bits).
struct Divider {
  i64 by;
  u64 magic;
  i32 shift;  // bits - 1; negative where `by` is 1, which `magic` cannot hold

#ifndef __CUDACC_RTC__
  static Divider of(i64 by) {
    int bits = 0;
    while (bits < 63 && (i64(1) << bits) < by) ++bits;
    if (by <= 1) return {1, 0, -1};
    const unsigned __int128 one = 1;
    return {by, static_cast<u64>(((one << (63 + bits)) + by - 1) / by), bits - 1};
  }
#endif
#ifdef GK_DIVIDER_DEVICE
  GK_DIVIDER_DEVICE i64 quotient(i64 n) const {
    return shift < 0 ? n : static_cast<i64>(__umul64hi(static_cast<u64>(n), magic) >> shift);
  }
  GK_DIVIDER_DEVICE i64 remainder(i64 n) const { return n - quotient(n) * by; }
#endif
};

}  // namespace gk
