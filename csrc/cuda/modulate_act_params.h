// modulate_act on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "host_device.h"
#include "launch.h"
#include "walk_plan.h"

namespace gk {

// Numbers of the dtype of sums along an axis, or null; a sample's begin `pitch` after those of the one before.
struct ModulateLine {
  const void* at;
  i64 pitch;
};

enum ModulateAxis : int { kOuter, kInner };

// Images [samples, outer, inner] in memory: channels and pixels, or pixels and channels where these are last. u = scale
// x + shift. Order 0: out = f(u). 1: d = g f'(u), out = scale d. 2, of cotangents h, h_scale, h_shift: q = scale h +
// h_scale x + h_shift, out_g = q f'(u), out = h_scale d + scale g q f''(u).
struct ModulateActParams {
  const void *x, *g, *h;
  void *out, *out_g;                                        // null for what is not asked for
  ModulateLine scale[2], shift[2], h_scale[2], h_shift[2];  // by axis
  // Sums of a block for the gradients of shift and scale, null where not asked for: over the inner axis [samples, inner
  // blocks, outer], over the outer one [samples, outer blocks, inner].
  void *shift_sums[2], *scale_sums[2];  // by the axis that is left
  i64 outer, inner, rows;               // rows of the outer axis that a block walks along
  u32 outer_blocks, inner_blocks;
  i32 act;
  float alpha, gain, bound;
  double wide_alpha, wide_gain, wide_bound;
};

constexpr int kModulateThreads = kWalkThreads, kModulateLanes = kWalkLanes;

// Elements of a thread: 16 bytes. Second derivatives have the registers for 4.
GK_HD constexpr int modulate_pack(int order, int item) { return item == 8 ? 2 : order == 2 || item == 4 ? 4 : 8; }

}  // namespace gk

// modulate_act_pass<T, order, elements of a thread>
#define GK_MODULATE_ACT_KERNELS(X)              \
  X(gk::modulate_act_pass<float, 0, 1>)         \
  X(gk::modulate_act_pass<float, 0, 4>)         \
  X(gk::modulate_act_pass<float, 1, 1>)         \
  X(gk::modulate_act_pass<float, 1, 4>)         \
  X(gk::modulate_act_pass<float, 2, 1>)         \
  X(gk::modulate_act_pass<float, 2, 4>)         \
  X(gk::modulate_act_pass<double, 0, 1>)        \
  X(gk::modulate_act_pass<double, 0, 2>)        \
  X(gk::modulate_act_pass<double, 1, 1>)        \
  X(gk::modulate_act_pass<double, 1, 2>)        \
  X(gk::modulate_act_pass<double, 2, 1>)        \
  X(gk::modulate_act_pass<double, 2, 2>)        \
  X(gk::modulate_act_pass<__half, 0, 1>)        \
  X(gk::modulate_act_pass<__half, 0, 8>)        \
  X(gk::modulate_act_pass<__half, 1, 1>)        \
  X(gk::modulate_act_pass<__half, 1, 8>)        \
  X(gk::modulate_act_pass<__half, 2, 1>)        \
  X(gk::modulate_act_pass<__half, 2, 4>)        \
  X(gk::modulate_act_pass<__nv_bfloat16, 0, 1>) \
  X(gk::modulate_act_pass<__nv_bfloat16, 0, 8>) \
  X(gk::modulate_act_pass<__nv_bfloat16, 1, 1>) \
  X(gk::modulate_act_pass<__nv_bfloat16, 1, 8>) \
  X(gk::modulate_act_pass<__nv_bfloat16, 2, 1>) \
  X(gk::modulate_act_pass<__nv_bfloat16, 2, 4>)

#ifndef __CUDACC_RTC__
// The blocks along both axes of a sample, which sums need room for: the same on every GPU. `wide`: all pointers are
// multiples of 16 bytes.
extern "C" void gk_modulate_act_blocks(gk::i64 samples, gk::i64 outer, gk::i64 inner, gk::i64 wide, gk::i64 dtype,
                                       gk::i64 order, gk::i64* outer_blocks, gk::i64* inner_blocks);

// `last`: channels lie along the inner axis. Numbers: scale [samples, channels], bias [channels], noise [samples,
// pixels], or [pixels] where `noise_shared`; sums are as in ModulateActParams.
GK_DECLARE_ENTRY(gk_modulate_act_forward, const void* x, const void* scale, const void* noise, const void* bias,
                 void* y, gk::i64 samples, gk::i64 outer, gk::i64 inner, gk::i64 last, gk::i64 noise_shared,
                 gk::i64 wide, gk::i64 dtype, gk::i64 act, double alpha, double gain, double clamp);
GK_DECLARE_ENTRY(gk_modulate_act_backward, const void* g, const void* x, const void* scale, const void* noise,
                 const void* bias, void* gx, void* scale_sums, void* noise_sums, void* bias_sums, gk::i64 samples,
                 gk::i64 outer, gk::i64 inner, gk::i64 last, gk::i64 noise_shared, gk::i64 wide, gk::i64 dtype,
                 gk::i64 act, double alpha, double gain, double clamp);
GK_DECLARE_ENTRY(gk_modulate_act_second, const void* g, const void* x, const void* scale, const void* noise,
                 const void* bias, const void* h, const void* h_scale, const void* h_noise, const void* h_bias,
                 void* out_g, void* out_x, void* scale_sums, void* noise_sums, void* bias_sums, gk::i64 samples,
                 gk::i64 outer, gk::i64 inner, gk::i64 last, gk::i64 noise_shared, gk::i64 wide, gk::i64 dtype,
                 gk::i64 act, double alpha, double gain, double clamp);
#endif
