// Index arithmetic of upfirdn2d that the CPU and CUDA kernels share; no header of torch.
#pragma once

#if defined(__CUDACC_RTC__)
using int64_t = long long;
#else
#include <cstdint>
#endif

#include "host_device.h"

namespace gk {

// One axis, the filter in correlation order: output o is the sum over t < count(o) of
// filter[tap(o) + t * up] * input[first(o) + t], where samples outside [0, in) are zero. No inserted zero is met.
struct FirAxis {
  int64_t in, out, taps, up, down, pad0;

  GK_HD int64_t tap(int64_t o) const {
    const int64_t m = (pad0 - o * down) % up;
    return m < 0 ? m + up : m;
  }
  GK_HD int64_t first(int64_t o) const { return (o * down - pad0 + tap(o)) / up; }
  GK_HD int64_t count(int64_t o) const {
    const int64_t k = tap(o);
    return k < taps ? (taps - k + up - 1) / up : 0;
  }
};

}  // namespace gk
