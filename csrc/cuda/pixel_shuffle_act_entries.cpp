// pixel_shuffle_act's entry: geometry and instantiation of its launch.
#include <algorithm>
#include <cmath>

#include "bias_act.h"
#include "pixel_shuffle_act_params.h"

namespace gk {
namespace {

constexpr i64 kBlocks = 1024;  // that fill a large GPU
constexpr i64 kSteps = 4;      // that a thread takes at least, where there are so many

i64 power_of_two(i64 at_least) {
  i64 power = 1;
  while (power < at_least) power *= 2;
  return power;
}

// How a launch lies.
struct Plan {
  bool rows;
  i64 pack, lanes, blocks, positions, splits, share;

  Plan(i64 n, i64 c, i64 h, i64 w, i64 r, i64 last, i64 wide, i64 dtype) {
    const i64 most = 16 / type_bytes(dtype), channels = c * r * r;
    rows = !last && wide && (r == 2 || (r == 4 && most >= 4)) && w % (most / r) == 0;
    pack = rows ? most : last && wide && channels % most == 0 ? most : 1;
    lanes = rows ? kShuffleThreads : last ? std::min<i64>(kShuffleLanes, power_of_two(ceil_div(channels, pack))) : 1;
    blocks = rows ? c * r : ceil_div(channels, lanes * pack);
    positions = rows ? n * h * (w / (pack / r)) : n * h * w;
    const i64 step = rows ? kShuffleThreads : kShuffleThreads / lanes;
    const i64 most_splits = std::max<i64>(1, positions / (step * kSteps));
    splits = std::min(most_splits, ceil_div(kBlocks, blocks));
    share = ceil_div(ceil_div(positions, splits), step) * step;
    splits = ceil_div(positions, share);
  }
};

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(pixel_shuffle_act, GK_PIXEL_SHUFFLE_ACT_KERNELS)

extern "C" gk::i64 gk_pixel_shuffle_act_splits(gk::i64 n, gk::i64 c, gk::i64 h, gk::i64 w, gk::i64 r, gk::i64 last,
                                               gk::i64 wide, gk::i64 dtype) {
  return gk::Plan(n, c, h, w, r, last, wide, dtype).splits;
}

GK_ENTRY(gk_pixel_shuffle_act, const void* ref, const void* bias, const void* g, const void* v, const void* v_bias,
         void* out, void* out_g, void* sums, gk::i64 n, gk::i64 c, gk::i64 h, gk::i64 w, gk::i64 r, gk::i64 last,
         gk::i64 wide, gk::i64 dtype, gk::i64 order, gk::i64 act, gk::i64 ref_is_output, double alpha, double gain,
         double clamp) {
  using namespace gk;
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (order < 0 || order > 2) return fail("order: got %lld, expected 0 to 2", order);
  if (act < 0 || act > static_cast<i64>(Act::swish)) return fail("act: got number %lld, expected 0 to 8", act);
  if (n < 1 || c < 1 || h < 1 || w < 1 || r < 1)
    return fail("sizes: got %lld, %lld, %lld, %lld and factor %lld, expected 1 or more", n, c, h, w, r);
  if (order > 0 && !g) return fail("g: got null, expected it for order %lld", order);
  if (wide && !(aligned(ref, 16) && aligned(g, 16) && aligned(v, 16) && aligned(out, 16) && aligned(out_g, 16)))
    return fail("wide: got 1, but a pointer is no multiple of 16 bytes");
  const Plan plan(n, c, h, w, r, last, wide, dtype);
  PixelShuffleActParams p = {};
  p.ref = ref;
  p.bias = bias;
  p.g = g;
  p.v = v;
  p.v_bias = v_bias;
  p.out = out;
  p.out_g = out_g;
  p.sums = sums;
  p.channels = c * r * r;
  p.height = h;
  p.positions = plan.positions;
  p.share = plan.share;
  p.j_step = last ? c : 1;
  p.i_step = p.j_step * w * r;
  p.w_step = p.j_step * r;
  p.h_step = p.i_step * r;
  p.c_step = last ? 1 : h * r * w * r;
  p.n_step = p.channels * h * w;
  p.a_row = Divider::of(plan.rows ? w / (plan.pack / r) : w);
  p.a_plane = Divider::of(h * w);
  p.inner = Divider::of(last ? 1 : h * w);
  p.factor = Divider::of(r);
  p.all = Divider::of(r * r);
  p.blocks = static_cast<u32>(plan.blocks);
  p.act = static_cast<i32>(act);
  p.ref_is_output = static_cast<i32>(ref_is_output);
  p.wide_alpha = alpha;
  p.wide_gain = gain;
  p.wide_bound = clamp < 0 ? INFINITY : clamp;
  p.alpha = static_cast<float>(p.wide_alpha);
  p.gain = static_cast<float>(p.wide_gain);
  p.bound = static_cast<float>(p.wide_bound);
  if (plan.blocks * plan.splits > 0x7fffffff)
    return fail("sizes: got %lld blocks, expected fewer than 2^31", plan.blocks * plan.splits);
  Launch launch = launch_of(p, static_cast<u32>(plan.blocks * plan.splits), static_cast<u32>(plan.lanes));
  launch.block[1] = static_cast<u32>(kShuffleThreads / plan.lanes);
  name_kernel(launch, "gk::pixel_shuffle_act_%s<%s, %d, %d>", plan.rows ? "rows" : "any", type_name(dtype),
              static_cast<int>(order), static_cast<int>(plan.rows ? r : plan.pack));
  return launcher->run(launcher, &launch);
}
