// fade_in on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"

namespace gk {

// A low image is [rows, columns, inner] in memory, an image [rows, r, columns, r, inner].
struct FadeInParams {
  const void *x, *l, *x2, *l2, *g;  // null for what there is not
  const void *a, *a2;               // one number each; `a` null: the factor
  void *out, *out_l, *sums;         // of images, of low ones; a block's sum of acc_of<T>; null for what is not wanted
  i64 positions, share;             // packs of low images; of a block
  Divider row, pixel;               // packs, or pixels, of a low row; packs of a pixel
  i32 r, difference;
  float factor;
  double wide_factor;
};

constexpr int kFadeThreads = 256;

}  // namespace gk

// fade_in_*_rows<T, r>: packs of an image's rows, r rows of them. fade_in_*_any<T, V>: V channels of a low pixel.
#define GK_FADE_IN_KERNELS_AS(X, kernel, T, V) \
  X(gk::fade_in_value_##kernel<T, V>)          \
  X(gk::fade_in_adjoint_##kernel<T, V>)
#define GK_FADE_IN_KERNELS_OF(X, T, V) \
  GK_FADE_IN_KERNELS_AS(X, rows, T, 1) \
  GK_FADE_IN_KERNELS_AS(X, rows, T, 2) \
  GK_FADE_IN_KERNELS_AS(X, any, T, V)  \
  GK_FADE_IN_KERNELS_AS(X, any, T, 1)
#define GK_FADE_IN_KERNELS(X)         \
  GK_FADE_IN_KERNELS_OF(X, float, 4)  \
  GK_FADE_IN_KERNELS_OF(X, double, 2) \
  GK_FADE_IN_KERNELS_OF(X, __half, 8) \
  GK_FADE_IN_KERNELS_OF(X, __nv_bfloat16, 8)

#ifndef __CUDACC_RTC__
// What a low image is, [rows, columns, inner], and r; `wide`: all images are at multiples of 16 bytes.
extern "C" gk::i64 gk_fade_in_blocks(gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 wide,
                                     gk::i64 dtype);

GK_DECLARE_ENTRY(gk_fade_in_value, const void* x, const void* l, const void* a, const void* x2, const void* l2,
                 const void* a2, void* y, gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 difference,
                 gk::i64 wide, gk::i64 dtype, double factor);
GK_DECLARE_ENTRY(gk_fade_in_adjoint, const void* g, const void* x, const void* l, const void* a, void* gx, void* gl,
                 void* sums, gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 difference, gk::i64 wide,
                 gk::i64 dtype, double factor);
#endif
