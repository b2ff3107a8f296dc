// pixel_shuffle_act on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"

namespace gk {

// x is [N, C r r, H, W], y [N, C, H r, W r]. Order 0: out = y of ref = x. 1: out = g f', as x. 2, with q = v + v_bias:
// out_g = q f', as y; out = q g f'', as x. ref is x, or y where ref_is_output.
struct PixelShuffleActParams {
  const void *ref, *bias, *g, *v, *v_bias;
  void *out, *out_g, *sums;  // null for what is not asked for; sums: [splits, C r r] of acc_of<T>
  i64 channels, height;      // of x
  i64 positions, share;      // packs of columns, or pixels, that channels are walked along; of a split
  i64 n_step, h_step, w_step, c_step, i_step, j_step;  // of y
  Divider a_row, a_plane, inner, factor, all;  // packs a row, pixels a plane, elements between channels of x, r, r r
  u32 blocks;                                  // over the channels
  i32 act, ref_is_output;
  float alpha, gain, bound;
  double wide_alpha, wide_gain, wide_bound;
};

constexpr int kShuffleThreads = 256, kShuffleLanes = 32;

}  // namespace gk

// pixel_shuffle_act_rows<T, order, r>: packs of y's rows. pixel_shuffle_act_any<T, order, V>: V channels of a pixel.
#define GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, kernel, T, V) \
  X(gk::kernel<T, 0, V>)                                 \
  X(gk::kernel<T, 1, V>)                                 \
  X(gk::kernel<T, 2, V>)
#define GK_PIXEL_SHUFFLE_ACT_KERNELS_OF(X, T, V)                   \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_rows, T, 2) \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_any, T, V)  \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_any, T, 1)
#define GK_PIXEL_SHUFFLE_ACT_KERNELS(X)                                 \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_OF(X, float, 4)                          \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_OF(X, double, 2)                         \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_OF(X, __half, 8)                         \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_OF(X, __nv_bfloat16, 8)                  \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_rows, float, 4)  \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_rows, __half, 4) \
  GK_PIXEL_SHUFFLE_ACT_KERNELS_AS(X, pixel_shuffle_act_rows, __nv_bfloat16, 4)

#ifndef __CUDACC_RTC__
// Blocks that share a channel in a reduction; `wide`: all pointers are multiples of 16 bytes.
extern "C" gk::i64 gk_pixel_shuffle_act_splits(gk::i64 n, gk::i64 c, gk::i64 h, gk::i64 w, gk::i64 r, gk::i64 last,
                                               gk::i64 wide, gk::i64 dtype);

GK_DECLARE_ENTRY(gk_pixel_shuffle_act, const void* ref, const void* bias, const void* g, const void* v,
                 const void* v_bias, void* out, void* out_g, void* sums, gk::i64 n, gk::i64 c, gk::i64 h, gk::i64 w,
                 gk::i64 r, gk::i64 last, gk::i64 wide, gk::i64 dtype, gk::i64 order, gk::i64 act,
                 gk::i64 ref_is_output, double alpha, double gain, double clamp);
#endif
