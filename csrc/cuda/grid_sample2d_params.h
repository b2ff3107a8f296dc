// grid_sample2d on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"
#include "grid_sample2d.h"

namespace gk {

// A thread has a point and every `lanes`-th pack of its channels, from `channels` of a block on.
struct SampleParams {
  const void *x, *grid, *along;  // the adjoint adds to `sums` instead of reading x
  void *y, *sums;                // sums: gx of the adjoint, or [points, 2 or 1] of the products
  SampleSettings settings;
  i32 height, width, out_height, out_width;
  i32 order, affine, acc_grid;  // acc_grid: the grid is in the type of arithmetic, whatever x is
  i32 lanes_shift;
  i64 points, channels, channels_a_block;
  i64 x_pixel, x_channel, y_channel;  // strides; a pixel's is the same in x and y
  Divider out_pixels, row;
};

constexpr int kSampleThreads = 256;

}  // namespace gk

// grid_sample2d_walk<T, 0 samples | 1 adjoint | 2 products, channels of a pack>.
#define GK_GRID_SAMPLE2D_KERNELS_OF(X, T, V) \
  X(gk::grid_sample2d_walk<T, 0, V>)         \
  X(gk::grid_sample2d_walk<T, 1, V>)         \
  X(gk::grid_sample2d_walk<T, 2, V>)         \
  X(gk::grid_sample2d_walk<T, 0, 1>)         \
  X(gk::grid_sample2d_walk<T, 1, 1>)         \
  X(gk::grid_sample2d_walk<T, 2, 1>)
#define GK_GRID_SAMPLE2D_KERNELS(X)         \
  GK_GRID_SAMPLE2D_KERNELS_OF(X, float, 4)  \
  GK_GRID_SAMPLE2D_KERNELS_OF(X, double, 2) \
  GK_GRID_SAMPLE2D_KERNELS_OF(X, __half, 8) \
  GK_GRID_SAMPLE2D_KERNELS_OF(X, __nv_bfloat16, 8)

#ifndef __CUDACC_RTC__
// what: 0 samples of x to y; 1 their adjoint of y, added to sums (gx, in the type of arithmetic); 2 the derivatives of
// <y, samples> in the grid, to sums. shape: N, C, H, W, OH, OW, channels_last, affine. settings: mode, padding, align,
// and order, which for what 2 is 1, or 2 for the mixed derivative.
GK_DECLARE_ENTRY(gk_grid_sample2d, gk::i64 what, const void* x, const void* grid, const void* along, void* y,
                 void* sums, const gk::i64* shape, const gk::i64* settings, gk::i64 dtype, gk::i64 grid_dtype);
#endif
