// How modulate_act goes over a tensor. The order of every sum depends on sizes alone, not on the number of threads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "bias_act_op.h"

namespace gk::modulate {

constexpr int64_t kTile = 512, kInner = 2048, kOuter = 32, kUnit = 16384;

// [batch, outer, inner] in memory. Contiguous: outer are channels and inner pixels; channels_last: the other way round.
// A unit of work is a block of both of one sample.
struct Layout {
  int64_t batch, outer, inner;
  bool last;
  int64_t inner_block = std::max<int64_t>(1, std::min(inner, kInner));
  int64_t outer_block = std::max<int64_t>(1, std::min(outer, std::max(kOuter, kUnit / inner_block)));
  int64_t inner_blocks = (inner + inner_block - 1) / inner_block;
  int64_t outer_blocks = (outer + outer_block - 1) / outer_block;

  int64_t units() const { return batch * outer_blocks * inner_blocks; }
  int64_t channels() const { return last ? inner : outer; }
  int64_t pixels() const { return last ? outer : inner; }
};

// A number for each channel and one for each pixel of a sample, added up; null for none.
template <class C>
struct Small {
  const C *channel = nullptr, *pixel = nullptr;
  int64_t channel_pitch = 0, pixel_pitch = 0;  // from sample to sample; 0 where all share
  C otherwise = 0;                             // where both are null

  bool none() const { return channel == nullptr && pixel == nullptr; }
};

// Sums of a unit over pixels for each channel, and over channels for each pixel: one row a block that was summed over.
struct Sums {
  double *channel = nullptr, *pixel = nullptr;
};

// The arrays of forward (x to out), backward (g, x to out = gx) and double backward (g, x, h = cotangent of gx, to
// out_g and out); all but g, or x of forward, may be null.
template <class T, class C>
struct Job {
  const T *x = nullptr, *g = nullptr, *h = nullptr;
  T *out = nullptr, *out_g = nullptr;
  Small<C> scale, shift, h_scale, h_shift;
  Sums of_scale, of_shift;
};

}  // namespace gk::modulate
