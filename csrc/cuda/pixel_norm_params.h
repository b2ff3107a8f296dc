// pixel_norm on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"

namespace gk {

// Tensors dense in one order and seen as [outer, count, inner]; vectors run along count.
struct PixelNormParams {
  const void *x, *g, *v;
  void *for_x, *for_g;  // null where not wanted
  i64 vectors, count;   // outer * inner vectors
  Divider inner;
  float eps;
  double wide_eps;
};

constexpr int kPixelNormLanes = 32, kPixelNormRows = 8;  // threads of a block

}  // namespace gk

// pixel_norm_rows<T, order of derivative, elements a thread has at once> where a vector lies together,
// pixel_norm_columns<...> where vectors lie side by side.
#define GK_PIXEL_NORM_KERNELS_AS(X, kernel, T, V) \
  X(gk::kernel<T, 0, V>)                          \
  X(gk::kernel<T, 1, V>)                          \
  X(gk::kernel<T, 2, V>)                          \
  X(gk::kernel<T, 0, 1>)                          \
  X(gk::kernel<T, 1, 1>)                          \
  X(gk::kernel<T, 2, 1>)
#define GK_PIXEL_NORM_KERNELS_OF(X, T, V)            \
  GK_PIXEL_NORM_KERNELS_AS(X, pixel_norm_rows, T, V) \
  GK_PIXEL_NORM_KERNELS_AS(X, pixel_norm_columns, T, V)
#define GK_PIXEL_NORM_KERNELS(X)         \
  GK_PIXEL_NORM_KERNELS_OF(X, float, 4)  \
  GK_PIXEL_NORM_KERNELS_OF(X, double, 2) \
  GK_PIXEL_NORM_KERNELS_OF(X, __half, 8) \
  GK_PIXEL_NORM_KERNELS_OF(X, __nv_bfloat16, 8)

#ifndef __CUDACC_RTC__
// order 0: for_x is y; 1: it is the gradient for x from g; 2: the derivatives of <v, that gradient> for x and g.
GK_DECLARE_ENTRY(gk_pixel_norm, const void* x, const void* g, const void* v, void* for_x, void* for_g, gk::i64 outer,
                 gk::i64 count, gk::i64 inner, gk::i64 dtype, gk::i64 order, double eps);
#endif
