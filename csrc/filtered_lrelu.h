// Two bits of each sample of the upsampled image, all that filtered_lrelu's derivatives of any order need, and their
// place on the CPU (csrc/cuda/filtered_lrelu_params.h tells that on the GPU); no header of torch.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cstdint>
#endif

#include "upfirdn2d.h"

namespace gk {

// The bits of a sample u. The sign is that of u itself, not of the result, so any slope and gain will do.
constexpr int kBelow = 1;    // u is not above zero: the slope applies
constexpr int kClamped = 2;  // its result lies beyond the clamp: no gradient passes

// A row of n samples takes (n + 3) / 4 bytes, group after group of kSignGroup samples. Byte k of a group holds samples
// k, k + q, k + 2 q and k + 3 q of it from its low bits up, q a quarter of the group's samples rounded up: vectors are
// packed as they are.
constexpr int64_t kSignGroup = 64;

GK_HD int64_t sign_bytes(int64_t n) { return (n + 3) / 4; }
GK_HD int64_t sign_quarter(int64_t n, int64_t group) {
  return sign_bytes(n - group < kSignGroup ? n - group : kSignGroup);  // of the group that begins at sample `group`
}

}  // namespace gk
