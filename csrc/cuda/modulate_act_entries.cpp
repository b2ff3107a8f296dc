// modulate_act's entries: geometry and instantiation of each launch.
#include <cmath>

#include "bias_act.h"
#include "modulate_act_params.h"

namespace gk {
namespace {

WalkPlan plan_of(const Sizes& s, i64 wide, i64 dtype, int order) {
  return {s, wide ? modulate_pack(order, static_cast<int>(type_bytes(dtype))) : 1};
}

// Which axis channels and pixels lie along, and the pitch of noise.
struct Axes {
  int channels, pixels;
  i64 noise_pitch;

  Axes(const Sizes& s, i64 last, i64 noise_shared)
      : channels(last ? kInner : kOuter),
        pixels(last ? kOuter : kInner),
        noise_pitch(noise_shared ? 0
                    : last       ? s.outer
                                 : s.inner) {}

  void put(ModulateLine (&scale_to)[2], ModulateLine (&shift_to)[2], const Sizes& s, const void* scale,
           const void* noise, const void* bias) const {
    scale_to[channels] = {scale, channels == kInner ? s.inner : s.outer};
    shift_to[channels] = {bias, 0};
    shift_to[pixels] = {noise, noise_pitch};
  }
  void put_sums(ModulateActParams& p, void* scale, void* noise, void* bias) const {
    p.scale_sums[channels] = scale;
    p.shift_sums[channels] = bias;
    p.shift_sums[pixels] = noise;
  }
};

const char* fill(ModulateActParams& p, const Sizes& s, i64 dtype, i64 act, double alpha, double gain, double clamp) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (act < 0 || act > static_cast<i64>(Act::swish)) return fail("act: got number %lld, expected 0 to 8", act);
  if (s.samples < 1 || s.outer < 1 || s.inner < 1)
    return fail("sizes: got %lld x %lld x %lld, expected none of them 0", s.samples, s.outer, s.inner);
  p.outer = s.outer;
  p.inner = s.inner;
  p.act = static_cast<i32>(act);
  p.wide_alpha = alpha;
  p.wide_gain = gain;
  p.wide_bound = clamp < 0 ? INFINITY : clamp;
  p.alpha = static_cast<float>(p.wide_alpha);
  p.gain = static_cast<float>(p.wide_gain);
  p.bound = static_cast<float>(p.wide_bound);
  return nullptr;
}

bool is_wide(const ModulateActParams& p) {
  bool all = aligned(p.x, 16) && aligned(p.g, 16) && aligned(p.h, 16) && aligned(p.out, 16) && aligned(p.out_g, 16);
  for (const ModulateLine* line : {&p.scale[kInner], &p.shift[kInner], &p.h_scale[kInner], &p.h_shift[kInner]})
    all = all && aligned(line->at, 16);
  return all;
}

const char* run(const Launcher* launcher, ModulateActParams& p, const Sizes& s, i64 wide, i64 dtype, int order) {
  if (wide && !is_wide(p)) return fail("wide: got 1, but a pointer is no multiple of 16 bytes");
  const WalkPlan plan = plan_of(s, wide, dtype, order);
  const i64 blocks = s.samples * plan.outer_blocks * plan.inner_blocks;
  if (blocks > 0x7fffffff) return fail("sizes: got %lld blocks, expected fewer than 2^31", blocks);
  p.rows = plan.rows;
  p.outer_blocks = static_cast<u32>(plan.outer_blocks);
  p.inner_blocks = static_cast<u32>(plan.inner_blocks);
  Launch launch = launch_of(p, static_cast<u32>(blocks), static_cast<u32>(plan.lanes));
  launch.block[1] = static_cast<u32>(plan.tall);
  name_kernel(launch, "gk::modulate_act_pass<%s, %d, %d>", type_name(dtype), order, static_cast<int>(plan.pack));
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(modulate_act, GK_MODULATE_ACT_KERNELS)

extern "C" void gk_modulate_act_blocks(gk::i64 samples, gk::i64 outer, gk::i64 inner, gk::i64 wide, gk::i64 dtype,
                                       gk::i64 order, gk::i64* outer_blocks, gk::i64* inner_blocks) {
  const gk::WalkPlan plan = gk::plan_of({samples, outer, inner}, wide, dtype, static_cast<int>(order));
  *outer_blocks = plan.outer_blocks;
  *inner_blocks = plan.inner_blocks;
}

GK_ENTRY(gk_modulate_act_forward, const void* x, const void* scale, const void* noise, const void* bias, void* y,
         gk::i64 samples, gk::i64 outer, gk::i64 inner, gk::i64 last, gk::i64 noise_shared, gk::i64 wide, gk::i64 dtype,
         gk::i64 act, double alpha, double gain, double clamp) {
  gk::ModulateActParams p = {};
  const gk::Sizes s{samples, outer, inner};
  if (const char* error = gk::fill(p, s, dtype, act, alpha, gain, clamp)) return error;
  gk::Axes(s, last, noise_shared).put(p.scale, p.shift, s, scale, noise, bias);
  p.x = x;
  p.out = y;
  return gk::run(launcher, p, s, wide, dtype, 0);
}

GK_ENTRY(gk_modulate_act_backward, const void* g, const void* x, const void* scale, const void* noise, const void* bias,
         void* gx, void* scale_sums, void* noise_sums, void* bias_sums, gk::i64 samples, gk::i64 outer, gk::i64 inner,
         gk::i64 last, gk::i64 noise_shared, gk::i64 wide, gk::i64 dtype, gk::i64 act, double alpha, double gain,
         double clamp) {
  gk::ModulateActParams p = {};
  const gk::Sizes s{samples, outer, inner};
  if (const char* error = gk::fill(p, s, dtype, act, alpha, gain, clamp)) return error;
  const gk::Axes axes(s, last, noise_shared);
  axes.put(p.scale, p.shift, s, scale, noise, bias);
  axes.put_sums(p, scale_sums, noise_sums, bias_sums);
  p.x = x;
  p.g = g;
  p.out = gx;
  return gk::run(launcher, p, s, wide, dtype, 1);
}

GK_ENTRY(gk_modulate_act_second, const void* g, const void* x, const void* scale, const void* noise, const void* bias,
         const void* h, const void* h_scale, const void* h_noise, const void* h_bias, void* out_g, void* out_x,
         void* scale_sums, void* noise_sums, void* bias_sums, gk::i64 samples, gk::i64 outer, gk::i64 inner,
         gk::i64 last, gk::i64 noise_shared, gk::i64 wide, gk::i64 dtype, gk::i64 act, double alpha, double gain,
         double clamp) {
  gk::ModulateActParams p = {};
  const gk::Sizes s{samples, outer, inner};
  if (const char* error = gk::fill(p, s, dtype, act, alpha, gain, clamp)) return error;
  const gk::Axes axes(s, last, noise_shared);
  axes.put(p.scale, p.shift, s, scale, noise, bias);
  axes.put(p.h_scale, p.h_shift, s, h_scale, h_noise, h_bias);
  axes.put_sums(p, scale_sums, noise_sums, bias_sums);
  p.x = x;
  p.g = g;
  p.h = h;
  p.out_g = out_g;
  p.out = out_x;
  return gk::run(launcher, p, s, wide, dtype, 2);
}
