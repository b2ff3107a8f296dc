// What the CPU kernels of upfirdn2d and of its filter gradient share: the phases of an axis, the view of a
// tensor as planes of rows, and the pieces of work.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "upfirdn2d_op.h"

namespace gk {

struct FirPhase {
  int64_t tap, first, count;
};

// Outputs `period` apart share their taps and move by `step` samples of the input: output period * j + p is the sum of
// taps at phases[p] over input phases[p].first + step * j + t.
struct FirLine : FirAxis {
  int64_t period, step, low = 0, high = 0, most = 0;  // inputs of j = 0 lie in [low, high); the longest phase
  std::vector<FirPhase> phases;

  explicit FirLine(const FirAxis& axis) : FirAxis(axis) {
    const int64_t common = std::gcd(up, down);
    period = up / common;
    step = down / common;
    for (int64_t p = 0; p < period; ++p) {
      phases.push_back({tap(p), first(p), count(p)});
      const FirPhase& f = phases.back();
      low = p == 0 ? f.first : std::min(low, f.first);
      high = p == 0 ? f.first + f.count : std::max(high, f.first + f.count);
      most = std::max(most, f.count);
    }
    high = std::max(high, low + 1);
  }
  // Inputs that `n` outputs from a phase 0 on reach over.
  int64_t span(int64_t n) const { return step * ((n + period - 1) / period - 1) + high - low; }
};

struct Strides {
  int64_t n, c, h, w;
  explicit Strides(const at::Tensor& t) : n(t.stride(0)), c(t.stride(1)), h(t.stride(2)), w(t.stride(3)) {}
};

// A tensor as planes of rows of pixels of `block` numbers that are filtered alike: all channels of a channels_last
// tensor, some channels of a contiguous one whose rows are too short to fill vectors, else one.
struct FirView {
  int64_t channels, block, blocks, planes;

  FirView(const at::Tensor& x, bool channels_last, int64_t widest, bool same_rate) : channels(x.size(1)) {
    constexpr int64_t kShortRow = 16, kFewChannels = 8, kBlock = 64;
    block = 1;
    if (channels_last && (channels >= kFewChannels || same_rate)) block = channels;
    if (!channels_last && widest <= kShortRow && channels > 3) block = std::min(channels, kBlock);
    block = std::max<int64_t>(block, 1);
    blocks = (channels + block - 1) / block;
    planes = x.size(0) * blocks;
  }
  int64_t offset(int64_t plane, const Strides& s) const { return plane / blocks * s.n + plane % blocks * block * s.c; }
  int64_t width(int64_t plane) const { return std::min(block, channels - plane % blocks * block); }
};

template <class F>
void with_fir_dtype(at::ScalarType type, F f) {
  switch (type) {
    case at::kDouble:
      return f(double(), double());
    case at::kFloat:
      return f(float(), float());
    case at::kBFloat16:
      return f(c10::BFloat16(), float());
    case at::kHalf:
      return f(c10::Half(), float());
    default:
      TORCH_CHECK(false, "upfirdn2d: x has dtype ", type, ", expected float64, float32, bfloat16 or float16");
  }
}

}  // namespace gk
