// Sums over samples and scalings of them on the GPU: what the host plans and the kernels read; the instantiations.
#pragma once
#include "divider.h"

namespace gk {

// Samples are contiguous, one after the other. A block sums `share` elements of one; grid: samples * splits.
struct PerSampleSumParams {
  const void *a, *b;  // b: null for squares
  const void* over;   // [samples], the norms that divide; null for none
  void *out, *parts;  // [samples]; [samples, splits] where there are several
  i64 samples, length, share;
  Divider splits;
  i32 root, vector;  // vector: 16-byte accesses are possible
  double factor;
};

// out = f x, f x / norm, or f / norm (v - x along / norm); grid: samples * tiles.
struct PerSampleCombineParams {
  const void *x, *v, *f, *norm, *along;
  void* out;
  i64 length;
  Divider tiles;
  double factor;
};

constexpr int kPerSampleThreads = 256;

}  // namespace gk

// per_sample_sums<T, squares>, per_sample_parts<T, squares>,
// per_sample_combine<T, 16-byte accesses, second derivative>
#define GK_PER_SAMPLE_KERNELS_OF(X, T)       \
  X(gk::per_sample_sums<T, true>)            \
  X(gk::per_sample_sums<T, false>)           \
  X(gk::per_sample_parts<T, true>)           \
  X(gk::per_sample_parts<T, false>)          \
  X(gk::per_sample_combine<T, true, false>)  \
  X(gk::per_sample_combine<T, false, false>) \
  X(gk::per_sample_combine<T, true, true>)   \
  X(gk::per_sample_combine<T, false, true>)
#define GK_PER_SAMPLE_KERNELS(X)      \
  GK_PER_SAMPLE_KERNELS_OF(X, float)  \
  GK_PER_SAMPLE_KERNELS_OF(X, double) \
  GK_PER_SAMPLE_KERNELS_OF(X, __half) \
  GK_PER_SAMPLE_KERNELS_OF(X, __nv_bfloat16)

#ifndef __CUDACC_RTC__
// Blocks that share a sample in a sum; above 1 the caller gives workspace of [samples, splits], in out's dtype for
// squares, else float64. It depends on the shape alone, so sums do not depend on the GPU.
extern "C" gk::i64 gk_per_sample_splits(gk::i64 samples, gk::i64 length);

GK_DECLARE_ENTRY(gk_per_sample_sum, const void* a, const void* b, const void* over, void* out, void* workspace,
                 gk::i64 samples, gk::i64 length, gk::i64 dtype, gk::i64 root, double factor);
GK_DECLARE_ENTRY(gk_per_sample_combine, const void* x, const void* v, const void* f, const void* norm,
                 const void* along, void* out, gk::i64 samples, gk::i64 length, gk::i64 dtype, double factor);
#endif
