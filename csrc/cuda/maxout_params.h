// maxout on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"

namespace gk {

// Pieces seen as [rows, pieces, inner], results as [rows, inner].
struct MaxoutParams {
  const void* in;
  void* out;
  void* index;  // read by a derivative, written with the value; null for none
  i64 results, pieces;
  Divider inner;
  i32 wide_index;  // int32, not uint8
};

constexpr int kMaxoutThreads = 256;

// Orders: the value, the gradient to where the index says, a number from there.
constexpr int kMaxoutValue = 0, kMaxoutScatter = 1, kMaxoutGather = 2;

}  // namespace gk

// maxout_apart<T, order, elements a thread has at once>, whose pieces lie `inner` apart; maxout_near<T, order, pieces>,
// whose pieces are neighbours and a pack holds them.
#define GK_MAXOUT_KERNELS_AS(X, kernel, T, V) \
  X(gk::kernel<T, 0, V>)                      \
  X(gk::kernel<T, 1, V>)                      \
  X(gk::kernel<T, 2, V>)
#define GK_MAXOUT_KERNELS_OF(X, T, V)         \
  GK_MAXOUT_KERNELS_AS(X, maxout_apart, T, V) \
  GK_MAXOUT_KERNELS_AS(X, maxout_apart, T, 1) \
  GK_MAXOUT_KERNELS_AS(X, maxout_near, T, 2)
#define GK_MAXOUT_KERNELS(X)                      \
  GK_MAXOUT_KERNELS_OF(X, float, 4)               \
  GK_MAXOUT_KERNELS_OF(X, double, 2)              \
  GK_MAXOUT_KERNELS_OF(X, __half, 8)              \
  GK_MAXOUT_KERNELS_OF(X, __nv_bfloat16, 8)       \
  GK_MAXOUT_KERNELS_AS(X, maxout_near, float, 4)  \
  GK_MAXOUT_KERNELS_AS(X, maxout_near, __half, 4) \
  GK_MAXOUT_KERNELS_AS(X, maxout_near, __nv_bfloat16, 4)

#ifndef __CUDACC_RTC__
GK_DECLARE_ENTRY(gk_maxout, const void* in, void* out, void* index, gk::i64 rows, gk::i64 pieces, gk::i64 inner,
                 gk::i64 dtype, gk::i64 order);
#endif
