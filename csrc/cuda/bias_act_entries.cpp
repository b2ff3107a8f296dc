// bias_act's entries: geometry and instantiation of each launch.
#include <cmath>

#include "bias_act.h"
#include "bias_act_params.h"

namespace gk {
namespace {

constexpr i64 kThreads = kBiasActThreads;
constexpr i64 kShare = 8192;   // elements that pay for a block of their own in a reduction
constexpr i64 kBlocks = 1024;  // blocks that fill a large GPU
constexpr i64 kLanes = 32;     // threads over the channels where they are innermost

i64 power_of_two(i64 at_least) {
  i64 power = 1;
  while (power < at_least) power *= 2;
  return power;
}

// What value and derivative have in common; an error, or nullptr.
const char* fill(BiasActParams& p, i64 numel, i64 channels, i64 inner, i64 dtype, i64 act, double alpha, double gain,
                 double clamp) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (act < 0 || act > static_cast<i64>(Act::swish)) return fail("act: got number %lld, expected 0 to 8", act);
  if (channels < 0 || inner < 0 || numel < 0 || (numel && (channels * inner == 0 || numel % (channels * inner))))
    return fail("numel: got %lld, expected a multiple of %lld channels of %lld elements", numel, channels, inner);
  p.numel = numel;
  p.rows = channels ? numel / channels : 0;
  p.inner = Divider::of(inner);
  p.channels = Divider::of(channels);
  p.act = static_cast<i32>(act);
  p.wide_alpha = alpha;
  p.wide_gain = gain;
  p.wide_bound = clamp < 0 ? INFINITY : clamp;
  p.alpha = static_cast<float>(p.wide_alpha);
  p.gain = static_cast<float>(p.wide_gain);
  p.bound = static_cast<float>(p.wide_bound);
  return nullptr;
}

bool wide(const BiasActParams& p) {
  return aligned(p.x, 16) && aligned(p.g, 16) && aligned(p.h, 16) && aligned(p.out, 16);
}

const char* map(const Launcher* launcher, BiasActParams& p, i64 dtype, i64 order) {
  p.vector = wide(p);
  const i64 tile = kThreads * (16 / type_bytes(dtype)) * (order == 0 ? kValuePacks : kDerivativePacks);
  Launch launch = launch_of(p, static_cast<u32>(ceil_div(p.numel, tile)), kBiasActThreads);
  name_kernel(launch, "gk::bias_act_map<%s, %d>", type_name(dtype), static_cast<int>(order));
  return launcher->run(launcher, &launch);
}

const char* reduce(const Launcher* launcher, BiasActParams& p, i64 dtype, i64 order, void* reduced, void* workspace) {
  const i64 pack = 16 / type_bytes(dtype), channels = p.channels.by, inner = p.inner.by;
  const bool last = inner == 1 && channels % pack == 0 && wide(p) && aligned(reduced, 16) && aligned(workspace, 16);
  p.vector = last || (inner % pack == 0 && wide(p));
  const i64 splits = gk_bias_act_splits(p.numel, channels, inner), lanes = last ? channels / pack : channels;
  if (splits > 1 && !workspace) return fail("workspace: got null, expected room for %lld splits", splits);
  const i64 rows_a_pack = last ? 1 : pack;
  p.rows_a_split = ceil_div(ceil_div(p.rows, splits), pack) * pack;
  p.sums = splits > 1 ? workspace : reduced;
  Launch launch = launch_of(p, 1, 1);
  launch.block[0] = static_cast<u32>(inner == 1 ? power_of_two(lanes < kLanes ? lanes : kLanes) : 1);
  const i64 deep = power_of_two(ceil_div(p.rows_a_split, rows_a_pack)), most = kThreads / launch.block[0];
  launch.block[1] = static_cast<u32>(deep < most ? deep : most);
  launch.grid[0] = static_cast<u32>(ceil_div(lanes, launch.block[0]));
  launch.grid[1] = static_cast<u32>(splits);
  name_kernel(launch, "gk::bias_act_reduce<%s, %d, %s>", type_name(dtype), static_cast<int>(order),
              last ? "true" : "false");
  if (const char* error = launcher->run(launcher, &launch)) return error;
  if (splits == 1) return nullptr;
  const BiasActSumsParams sums = {workspace, reduced, splits, channels};
  launch = launch_of(sums, static_cast<u32>(ceil_div(channels, kLanes)), kLanes);
  launch.block[1] = kBiasActThreads / kLanes;
  name_kernel(launch, "gk::bias_act_sums<%s>", type_name(dtype));
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(bias_act, GK_BIAS_ACT_KERNELS)

extern "C" gk::i64 gk_bias_act_splits(gk::i64 numel, gk::i64 channels, gk::i64 inner) {
  using namespace gk;
  if (!numel) return 1;
  const i64 together = inner == 1 ? (channels < 8 * kLanes ? channels : 8 * kLanes) : 1;  // channels of a block
  const i64 useful = numel / channels * together / kShare, room = ceil_div(kBlocks, ceil_div(channels, together));
  return useful < 1 ? 1 : useful < room ? useful : room;
}

GK_ENTRY(gk_bias_act_value, const void* x, const void* bias, void* out, gk::i64 numel, gk::i64 channels, gk::i64 inner,
         gk::i64 dtype, gk::i64 act, double alpha, double gain, double clamp) {
  gk::BiasActParams p = {};
  if (const char* error = gk::fill(p, numel, channels, inner, dtype, act, alpha, gain, clamp)) return error;
  p.x = x;
  p.bias = bias;
  p.out = out;
  return gk::map(launcher, p, dtype, 0);
}

GK_ENTRY(gk_bias_act_derivative, const void* g, const void* g_bias, const void* h, const void* ref, const void* bias,
         void* out, void* reduced, void* workspace, gk::i64 numel, gk::i64 channels, gk::i64 inner, gk::i64 dtype,
         gk::i64 act, gk::i64 order, gk::i64 ref_is_output, double alpha, double gain, double clamp) {
  gk::BiasActParams p = {};
  if (const char* error = gk::fill(p, numel, channels, inner, dtype, act, alpha, gain, clamp)) return error;
  const gk::Act a = static_cast<gk::Act>(act);
  if (order < 1 || order > 3) return gk::fail("order: got %lld, expected 1 to 3", order);
  if (ref_is_output && !gk::has_slope_of_output(a, alpha, gain, clamp >= 0))
    return gk::fail("ref_is_output: got 1, but the output of act %lld with these numbers does not tell its slope", act);
  if (!ref && !(a == gk::Act::linear && clamp < 0))
    return gk::fail("ref: got null, expected the input of act %lld", act);
  p.x = ref;
  p.bias = bias;
  p.g = g;
  p.g_bias = g_bias;
  p.h = h;
  p.out = out;
  p.x_is_output = static_cast<gk::i32>(ref_is_output);
  return reduced ? gk::reduce(launcher, p, dtype, order, reduced, workspace) : gk::map(launcher, p, dtype, order);
}
