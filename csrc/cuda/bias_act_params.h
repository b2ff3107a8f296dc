// bias_act on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"

namespace gk {

// The value or a derivative, for tensors dense in one order and seen as [outer, channels, inner].
struct BiasActParams {
  const void *x, *bias;           // the activation's input before the bias; the output where x_is_output
  const void *g, *g_bias, *h;     // of a derivative: its factor is (g + g_bias) h
  void* out;                      // null for none
  void* sums;                     // of a reduction: [splits, channels] of acc_of<T>, or [channels] of T where 1 split
  i64 numel, rows, rows_a_split;  // rows: elements a channel
  Divider inner, channels;
  i32 act, x_is_output, vector;  // vector: 16-byte accesses are possible
  float alpha, gain, bound;      // bound: infinite for none
  double wide_alpha, wide_gain, wide_bound;
};

struct BiasActSumsParams {
  const void* sums;  // [splits, channels]
  void* out;         // [channels]
  i64 splits, channels;
};

constexpr int kBiasActThreads = 256;

// 16-byte packs that a thread of bias_act_map has under way.
constexpr int kValuePacks = 2, kDerivativePacks = 1;

}  // namespace gk

// bias_act_map<T, order of derivative>, bias_act_reduce<T, order, channels are innermost and in packs>,
// bias_act_sums<T>.
#define GK_BIAS_ACT_KERNELS_OF(X, T)  \
  X(gk::bias_act_map<T, 0>)           \
  X(gk::bias_act_map<T, 1>)           \
  X(gk::bias_act_map<T, 2>)           \
  X(gk::bias_act_map<T, 3>)           \
  X(gk::bias_act_reduce<T, 1, false>) \
  X(gk::bias_act_reduce<T, 2, false>) \
  X(gk::bias_act_reduce<T, 3, false>) \
  X(gk::bias_act_reduce<T, 1, true>)  \
  X(gk::bias_act_reduce<T, 2, true>)  \
  X(gk::bias_act_reduce<T, 3, true>)  \
  X(gk::bias_act_sums<T>)
#define GK_BIAS_ACT_KERNELS(X)      \
  GK_BIAS_ACT_KERNELS_OF(X, float)  \
  GK_BIAS_ACT_KERNELS_OF(X, double) \
  GK_BIAS_ACT_KERNELS_OF(X, __half) \
  GK_BIAS_ACT_KERNELS_OF(X, __nv_bfloat16)

#ifndef __CUDACC_RTC__
// Blocks that share a channel in a reduction; above 1 the caller gives workspace of [splits, channels] in float32
// (float64 for float64). It depends on the shape alone, so sums do not depend on the GPU.
extern "C" gk::i64 gk_bias_act_splits(gk::i64 numel, gk::i64 channels, gk::i64 inner);

GK_DECLARE_ENTRY(gk_bias_act_value, const void* x, const void* bias, void* out, gk::i64 numel, gk::i64 channels,
                 gk::i64 inner, gk::i64 dtype, gk::i64 act, double alpha, double gain, double clamp);
GK_DECLARE_ENTRY(gk_bias_act_derivative, const void* g, const void* g_bias, const void* h, const void* ref,
                 const void* bias, void* out, void* reduced, void* workspace, gk::i64 numel, gk::i64 channels,
                 gk::i64 inner, gk::i64 dtype, gk::i64 act, gk::i64 order, gk::i64 ref_is_output, double alpha,
                 double gain, double clamp);
#endif
