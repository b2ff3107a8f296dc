// batch_norm_act on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"
#include "host_device.h"

namespace gk {

// A number a channel, or null: of the dtype of x where `narrow`, else of the dtype of sums.
struct NormChannels {
  void* at;
  i64 narrow;
};

// Tensors dense in one order and seen as [outer, channels, inner], in groups of `rows` elements a channel. A cell is a
// group's part of a channel: numbers are one a cell, statistics too unless `shared`, where they are one a channel.
struct BatchNormActParams {
  const void *x, *g, *v;  // input, cotangent of the output, cotangent of the input's gradient (null for zero)
  void* out[2];           // null for what is not asked for
  NormChannels weight, bias;
  NormChannels mean, spread;             // given statistics: a variance in the forward pass, else 1 / deviation
  NormChannels p, q;                     // cotangents of the parameters' gradients
  void *batch_mean, *invstd, *variance;  // what the forward pass returns
  NormChannels grad_weight, grad_bias;
  const void *scale, *shift, *pixel_p, *pixel_q;  // where weight (1 + scale) and bias are an element's own
  void *scale_grad, *shift_grad;
  void* sums;    // [terms, groups, splits, channels] of the dtype of sums; null where nothing is summed
  void* totals;  // [5, channels], what `shared` sets need of the sums of their cells
  i64 splits, rows_a_split;
  i64 groups, rows, channels, rows_a_block;
  Divider inner;
  i32 act, batch_statistics, shared;
  float alpha, gain;
  double wide_alpha, wide_gain, eps;
};

enum NormPass : int { kNormForward, kNormBackward, kNormSecond };

// Whose weight and bias are: a cell's as its statistics are, a cell's beside statistics of channels, an element's; the
// last is the first with statistics of each sample.
enum NormCells : int { kNormOwn, kNormShared, kNormPixels, kNormInstance };

// How a thread's pack lies: one element, neighbours within a channel, or neighbours across channels.
enum NormLayout : int { kNormSingle, kNormRows, kNormChannels };

constexpr int kNormThreads = 256;
constexpr int kNormLanes[] = {32, 1, 4};  // most threads of a block side by side over the channels, by layout

// Elements of a pack: 16 bytes. Second derivatives have the registers for 4, or for one of float64.
GK_HD constexpr int norm_pack(int pass, int layout, int item) {
  return layout == kNormSingle ? 1 : pass == kNormSecond ? (item == 8 ? 1 : 4) : 16 / item;
}

}  // namespace gk

// batch_norm_act_reduce, _apply and _whole<T, pass, layout>, the same with pixels_, batch_norm_act_combine<T,
// pass>.
#define GK_BATCH_NORM_ACT_KERNELS_OF(X, T, P) \
  X(gk::batch_norm_act_whole<T, P, 0>)        \
  X(gk::batch_norm_act_whole<T, P, 1>)        \
  X(gk::batch_norm_act_whole<T, P, 2>)        \
  X(gk::batch_norm_act_reduce<T, P, 0>)       \
  X(gk::batch_norm_act_reduce<T, P, 1>)       \
  X(gk::batch_norm_act_reduce<T, P, 2>)       \
  X(gk::batch_norm_act_apply<T, P, 0>)        \
  X(gk::batch_norm_act_apply<T, P, 1>)        \
  X(gk::batch_norm_act_apply<T, P, 2>)
#define GK_BATCH_NORM_ACT_PIXELS_OF(X, T, P)  \
  X(gk::batch_norm_act_pixels_apply<T, P, 0>) \
  X(gk::batch_norm_act_pixels_apply<T, P, 1>) \
  X(gk::batch_norm_act_pixels_apply<T, P, 2>)
#define GK_BATCH_NORM_ACT_KERNELS_OF_TYPE(X, T) \
  GK_BATCH_NORM_ACT_KERNELS_OF(X, T, 0)         \
  GK_BATCH_NORM_ACT_KERNELS_OF(X, T, 1)         \
  GK_BATCH_NORM_ACT_KERNELS_OF(X, T, 2)         \
  GK_BATCH_NORM_ACT_PIXELS_OF(X, T, 0)          \
  GK_BATCH_NORM_ACT_PIXELS_OF(X, T, 1)          \
  GK_BATCH_NORM_ACT_PIXELS_OF(X, T, 2)          \
  X(gk::batch_norm_act_pixels_reduce<T, 1, 0>)  \
  X(gk::batch_norm_act_pixels_reduce<T, 1, 1>)  \
  X(gk::batch_norm_act_pixels_reduce<T, 1, 2>)  \
  X(gk::batch_norm_act_pixels_reduce<T, 2, 0>)  \
  X(gk::batch_norm_act_pixels_reduce<T, 2, 1>)  \
  X(gk::batch_norm_act_pixels_reduce<T, 2, 2>)  \
  X(gk::batch_norm_act_combine<T, 1>)           \
  X(gk::batch_norm_act_combine<T, 2>)
#define GK_BATCH_NORM_ACT_KERNELS(X)           \
  GK_BATCH_NORM_ACT_KERNELS_OF_TYPE(X, float)  \
  GK_BATCH_NORM_ACT_KERNELS_OF_TYPE(X, double) \
  GK_BATCH_NORM_ACT_KERNELS_OF_TYPE(X, __half) \
  GK_BATCH_NORM_ACT_KERNELS_OF_TYPE(X, __nv_bfloat16)

#ifndef __CUDACC_RTC__
// `rows` is of a group, of which there are `groups`; `cells` is a NormCells. Blocks that share a cell's sums; the
// caller gives `sums` of [10 in the second derivative, 14 for kNormPixels, else 2; groups; splits; channels] in float32
// (float64 for float64), one group of all rows for the forward pass of kNormShared. It depends on the shape alone, so
// sums do not depend on the GPU. `totals` is [5, channels], for derivatives of kNormShared.
extern "C" gk::i64 gk_batch_norm_act_splits(gk::i64 groups, gk::i64 rows, gk::i64 channels, gk::i64 inner,
                                            gk::i64 dtype);

// `narrow` has a bit for each tensor of numbers a channel, in their order, set where its dtype is that of x.
// With `sums` the batch's statistics are taken, else running_mean and running_var are; without y they are all there is.
GK_DECLARE_ENTRY(gk_batch_norm_act_forward, const void* x, const void* weight, const void* bias,
                 const void* running_mean, const void* running_var, void* y, void* mean, void* invstd, void* variance,
                 void* sums, gk::i64 groups, gk::i64 cells, gk::i64 rows, gk::i64 channels, gk::i64 inner,
                 gk::i64 dtype, gk::i64 narrow, gk::i64 act, double eps, double alpha, double gain);
// Without `sums` nothing is summed: given statistics, and no gradient of a parameter.
GK_DECLARE_ENTRY(gk_batch_norm_act_backward, const void* g, const void* x, const void* weight, const void* bias,
                 const void* mean, const void* invstd, void* gx, void* grad_weight, void* grad_bias, void* sums,
                 void* totals, gk::i64 groups, gk::i64 cells, gk::i64 rows, gk::i64 channels, gk::i64 inner,
                 gk::i64 dtype, gk::i64 narrow, gk::i64 batch_statistics, gk::i64 act, double alpha, double gain);
GK_DECLARE_ENTRY(gk_batch_norm_act_second, const void* v, const void* p, const void* q, const void* g, const void* x,
                 const void* weight, const void* bias, const void* mean, const void* invstd, void* gg, void* gx,
                 void* grad_weight, void* grad_bias, void* sums, void* totals, gk::i64 groups, gk::i64 cells,
                 gk::i64 rows, gk::i64 channels, gk::i64 inner, gk::i64 dtype, gk::i64 narrow, gk::i64 batch_statistics,
                 gk::i64 act, double alpha, double gain);
#endif
