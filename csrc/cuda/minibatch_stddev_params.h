// minibatch_stddev on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"
#include "minibatch_stddev.h"

namespace gk {

struct StddevParams {
  StddevLayout layout;
  const void *x, *v, *gy;
  void *y, *gx;  // of a second derivative null where not wanted; y is then for gy's cotangent
  void* sums;    // [lots * channels, splits] of acc_of<T>: what the planes will be the mean of
  void* scales;  // [lots * channels] of acc_of<T>: (sum of gy's planes) / (count group)
  Divider splits, run, pixels, channels;
  i64 piece;  // positions of a block
};

constexpr int kStddevThreads = 256;

}  // namespace gk

// minibatch_stddev_pass<T, order of derivative, elements a thread has at once>, and what comes after or before it: the
// planes of the result, and the sums over the planes of gy.
#define GK_MINIBATCH_STDDEV_KERNELS_OF(X, T, V) \
  X(gk::minibatch_stddev_pass<T, 0, V>)         \
  X(gk::minibatch_stddev_pass<T, 1, V>)         \
  X(gk::minibatch_stddev_pass<T, 2, V>)         \
  X(gk::minibatch_stddev_pass<T, 0, 1>)         \
  X(gk::minibatch_stddev_pass<T, 1, 1>)         \
  X(gk::minibatch_stddev_pass<T, 2, 1>)         \
  X(gk::minibatch_stddev_fill<T>)               \
  X(gk::minibatch_stddev_scales<T>)
#define GK_MINIBATCH_STDDEV_KERNELS(X)         \
  GK_MINIBATCH_STDDEV_KERNELS_OF(X, float, 4)  \
  GK_MINIBATCH_STDDEV_KERNELS_OF(X, double, 2) \
  GK_MINIBATCH_STDDEV_KERNELS_OF(X, __half, 8) \
  GK_MINIBATCH_STDDEV_KERNELS_OF(X, __nv_bfloat16, 8)

#ifndef __CUDACC_RTC__
// Blocks that share a lot's part: sums are [lots * channels, splits]. It depends on the shape alone, so that results do
// not depend on the GPU.
extern "C" gk::i64 gk_minibatch_stddev_splits(gk::i64 lots, gk::i64 count);

// shape: N, C, H * W, group, channels, channels_last. sums and scales are float32 (float64 for float64).
GK_DECLARE_ENTRY(gk_minibatch_stddev_value, const void* x, void* y, void* sums, const gk::i64* shape, gk::i64 dtype);
GK_DECLARE_ENTRY(gk_minibatch_stddev_backward, const void* gy, const void* x, void* gx, void* scales,
                 const gk::i64* shape, gk::i64 dtype);
GK_DECLARE_ENTRY(gk_minibatch_stddev_double_backward, const void* v, const void* gy, const void* x, void* ggy, void* gx,
                 void* sums, void* scales, const gk::i64* shape, gk::i64 dtype);
#endif
