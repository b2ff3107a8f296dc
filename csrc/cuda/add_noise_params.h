// add_noise on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "launch.h"
#include "walk_plan.h"

namespace gk {

// Numbers along an axis, of which the next is `step` on: 0 where all are one. A sample's begin `pitch` after those of
// the one before. Null: all are the factor.
struct NoiseLine {
  const void* at;
  i64 pitch, step;
};

// Images [samples, outer, inner] in memory: channels and pixels, or pixels and channels where these are last.
struct AddNoiseParams {
  const void* x;  // the image, null for 0; the gradient of sums
  void* out;
  NoiseLine row[2], column[2];  // of each term row * column
  // Sums of a block, null where not asked for: of rows, against the columns' numbers, [samples, inner blocks, outer];
  // of columns, against the rows', [samples, outer blocks, inner].
  void *row_sums, *column_sums;
  i64 outer, inner, rows;  // rows that a block walks along
  u32 outer_blocks, inner_blocks;
  i32 terms[2];  // whether there is such a term
  float factor;
  double wide_factor;
};

}  // namespace gk

// add_noise_value<T, elements of a thread>, add_noise_sums<T, elements of a thread>.
#define GK_ADD_NOISE_KERNELS_OF(X, T, V) \
  X(gk::add_noise_value<T, V>)           \
  X(gk::add_noise_value<T, 1>)           \
  X(gk::add_noise_sums<T, V>)            \
  X(gk::add_noise_sums<T, 1>)
#define GK_ADD_NOISE_KERNELS(X)         \
  GK_ADD_NOISE_KERNELS_OF(X, float, 4)  \
  GK_ADD_NOISE_KERNELS_OF(X, double, 2) \
  GK_ADD_NOISE_KERNELS_OF(X, __half, 8) \
  GK_ADD_NOISE_KERNELS_OF(X, __nv_bfloat16, 8)

#ifndef __CUDACC_RTC__
// s, s2: strengths, next s_step and s2_step on; m, m2: noise, one for all samples where shared. A term without noise is
// none; `wide`: all pointers along the inner axis are multiples of 16 bytes.
GK_DECLARE_ENTRY(gk_add_noise_value, const void* x, const void* s, const void* m, const void* s2, const void* m2,
                 void* y, gk::i64 s_step, gk::i64 s2_step, gk::i64 shared, gk::i64 shared2, gk::i64 samples,
                 gk::i64 channels, gk::i64 pixels, gk::i64 last, gk::i64 wide, gk::i64 dtype, double factor);
GK_DECLARE_ENTRY(gk_add_noise_sums, const void* g, const void* s, const void* m, void* channel_sums, void* pixel_sums,
                 gk::i64 s_step, gk::i64 shared, gk::i64 samples, gk::i64 channels, gk::i64 pixels, gk::i64 last,
                 gk::i64 wide, gk::i64 dtype, double factor);

// Blocks of sums over the pixels and over the channels.
extern "C" void gk_add_noise_blocks(gk::i64 samples, gk::i64 channels, gk::i64 pixels, gk::i64 last, gk::i64 wide,
                                    gk::i64 dtype, gk::i64* over_pixels, gk::i64* over_channels);
#endif
