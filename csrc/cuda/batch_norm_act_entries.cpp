// batch_norm_act's entries: geometry and instantiation of each launch.
#include "batch_norm_act.h"
#include "batch_norm_act_params.h"

namespace gk {
namespace {

constexpr i64 kShare = 16384;    // bytes of a tensor that pay for a block of their own
constexpr i64 kBlocks = 512;     // blocks that fill a large GPU in a reduction
constexpr i64 kMostSplits = 64;  // each block that applies reads the sums of all splits
constexpr i64 kMostRowBlocks = 16384;

i64 power_of_two(i64 at_least) {
  i64 power = 1;
  while (power < at_least) power *= 2;
  return power;
}
i64 clamp(i64 value, i64 low, i64 high) { return value > high ? high : value < low ? low : value; }

// Channels of a block, by the shape alone.
i64 columns_of(i64 channels, i64 inner, i64 item) {
  if (inner != 1) return 1;
  return channels % (16 / item) == 0 ? kNormLanes[kNormChannels] * (16 / item) : kNormLanes[kNormSingle];
}
// Where channels lie side by side a block reads a strip of the rows: twice as much then pays for its reading of sums.
i64 share_of(i64 inner) { return inner == 1 ? 2 * kShare : kShare; }

constexpr i64 kWhole = 256 * 1024;  // bytes of a strip that one block reads twice, where there are kEnough blocks
constexpr i64 kEnough = 128;
constexpr i64 kMostGroups = 65535;  // of a grid's third dimension

const char* fill(BatchNormActParams& p, i64 groups, i64 cells, i64 rows, i64 channels, i64 inner, i64 dtype, i64 act,
                 double alpha, double gain) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (act < 0 || act > static_cast<i64>(Act::swish)) return fail("act: got number %lld, expected 0 to 8", act);
  if (channels < 1 || inner < 1 || rows < 1 || rows % inner)
    return fail("rows: got %lld, expected a multiple of %lld and %lld channels, none of them 0", rows, inner, channels);
  if (groups < 1 || groups > kMostGroups)
    return fail("x: got %lld samples with numbers of their own, expected 1 to %lld; split the batch", groups,
                kMostGroups);
  p.groups = groups;
  p.shared = cells == kNormShared;
  p.rows = rows;
  p.channels = channels;
  p.inner = Divider::of(inner);
  p.act = static_cast<i32>(act);
  p.wide_alpha = alpha;
  p.wide_gain = gain;
  p.alpha = static_cast<float>(alpha);
  p.gain = static_cast<float>(gain);
  return nullptr;
}

struct Plan {
  const Launcher* launcher;
  BatchNormActParams& p;
  i64 dtype;
  NormPass pass;
  bool pixels;
  int layout;
  i64 pack, lanes, columns;

  Plan(const Launcher* launcher, BatchNormActParams& p, i64 dtype, NormPass pass, bool pixels = false)
      : launcher(launcher), p(p), dtype(dtype), pass(pass), pixels(pixels) {
    const i64 item = type_bytes(dtype), inner = p.inner.by;
    layout = inner == 1 ? kNormChannels : kNormRows;
    pack = norm_pack(pixels ? kNormSecond : pass, layout, static_cast<int>(item));
    bool whole = (inner == 1 ? p.channels : inner) % pack == 0;
    const void* all[] = {p.x,     p.g,       p.v,       p.out[0],     p.out[1],    p.scale,
                         p.shift, p.pixel_p, p.pixel_q, p.scale_grad, p.shift_grad};
    for (const void* t : all) whole = whole && aligned(t, pack * item);
    if (!whole) layout = kNormSingle, pack = 1;
    const i64 units = layout == kNormChannels ? p.channels / pack : p.channels;
    lanes = inner == 1 ? power_of_two(units < kNormLanes[layout] ? units : kNormLanes[layout]) : 1;
    columns = lanes * (layout == kNormChannels ? pack : 1);
  }

  const char* run(const char* kernel, i64 rows_a_block, i64 blocks) const {
    Launch launch = launch_of(p, 1, 1);
    const i64 deep = power_of_two(ceil_div(rows_a_block, layout == kNormRows ? pack : 1));
    launch.block[0] = static_cast<u32>(lanes);
    launch.block[1] = static_cast<u32>(clamp(deep, 32 / lanes, kNormThreads / lanes));
    launch.grid[0] = static_cast<u32>(ceil_div(p.channels, columns));
    launch.grid[1] = static_cast<u32>(blocks);
    launch.grid[2] = static_cast<u32>(p.groups);
    name_kernel(launch, "gk::batch_norm_act_%s<%s, %d, %d>", kernel, type_name(dtype), static_cast<int>(pass), layout);
    return launcher->run(launcher, &launch);
  }

  // Rows in shares of whole packs, of whichever pass.
  i64 share(i64 blocks) const { return ceil_div(ceil_div(p.rows, blocks), 8) * 8; }

  const char* reduce() const {
    p.rows_a_split = share(gk_batch_norm_act_splits(p.groups, p.rows, p.channels, p.inner.by, dtype));
    p.splits = ceil_div(p.rows, p.rows_a_split);
    return run(pixels && pass != kNormForward ? "pixels_reduce" : "reduce", p.rows_a_split, p.splits);
  }
  // Whether one launch pays, in which a block has the whole of its sets.
  bool fits() const {
    const i64 strip = columns_of(p.channels, p.inner.by, type_bytes(dtype)), blocks = ceil_div(p.channels, columns);
    const i64 bytes = p.rows * strip * type_bytes(dtype);
    return bytes <= share_of(p.inner.by) || (bytes <= kWhole && blocks * p.groups >= kEnough);
  }
  const char* whole() const {
    p.rows_a_split = p.rows_a_block = p.rows;
    p.splits = 1;
    return run("whole", p.rows, 1);
  }
  // The moments of `shared` sets are those of all groups as one.
  const char* moments() const {
    const i64 groups = p.groups, rows = p.rows;
    if (p.shared) p.groups = 1, p.rows = rows * groups;
    const char* error = Plan(launcher, p, dtype, kNormForward).reduce();
    p.groups = groups, p.rows = rows;
    return error;
  }
  const char* apply() const {
    const i64 strip = columns_of(p.channels, p.inner.by, type_bytes(dtype));
    i64 most = kMostRowBlocks;
    if (p.sums && strip > 1) most = clamp(2 * kBlocks / (ceil_div(p.channels, strip) * p.groups), 1, most);
    const i64 useful = p.rows * strip * type_bytes(dtype) / share_of(p.inner.by);
    p.rows_a_block = share(clamp(useful, 1, most));
    return run(pixels ? "pixels_apply" : "apply", p.rows_a_block, ceil_div(p.rows, p.rows_a_block));
  }
  // The gradients of the parameters, or statistics, from the sums, and nothing else.
  const char* finish() const {
    Plan plan = *this;
    if (!p.batch_statistics && pass == kNormSecond) plan.pass = kNormBackward;  // whose two sums are those of either
    plan.layout = kNormSingle;
    plan.lanes = plan.columns = power_of_two(p.channels < 32 ? p.channels : 32);
    p.rows_a_block = 0;
    return plan.run("apply", 0, 1);
  }
  const char* combine() const {
    Launch launch = launch_of(p, static_cast<u32>(ceil_div(p.channels, 64)), 64);
    name_kernel(launch, "gk::batch_norm_act_combine<%s, %d>", type_name(dtype), static_cast<int>(pass));
    return launcher->run(launcher, &launch);
  }
};

NormChannels channels_of(const void* at, i64 narrow, int bit) { return {const_cast<void*>(at), narrow >> bit & 1}; }

const char* derivative(const Plan& plan, i64 cells) {
  const BatchNormActParams& p = plan.p;
  const bool writes = p.out[0] || p.out[1], parameters = p.grad_weight.at || p.grad_bias.at;
  if ((p.batch_statistics || parameters) && !p.sums) return fail("sums: got null, expected room for them");
  void* const totals = plan.p.totals;
  plan.p.totals = nullptr;
  if (!p.sums) return plan.apply();
  if (cells == kNormInstance && writes && plan.fits()) return plan.whole();
  if (const char* error = plan.reduce()) return error;
  if (p.shared && p.batch_statistics) {
    if (!totals) return fail("totals: got null, expected room for them");
    plan.p.totals = totals;
    if (const char* error = plan.combine()) return error;
    return writes ? plan.apply() : nullptr;
  }
  return p.batch_statistics && writes ? plan.apply() : plan.finish();  // with given statistics it has been written
}

// Everything but a batch's statistics is an element's own.
const char* pixel_derivative(const Plan& plan) {
  if (plan.p.sums)
    if (const char* error = plan.reduce()) return error;
  return plan.apply();
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(batch_norm_act, GK_BATCH_NORM_ACT_KERNELS)

extern "C" gk::i64 gk_batch_norm_act_splits(gk::i64 groups, gk::i64 rows, gk::i64 channels, gk::i64 inner,
                                            gk::i64 dtype) {
  using namespace gk;
  const i64 item = type_bytes(dtype), strip = columns_of(channels, inner, item);
  const i64 room = clamp(kBlocks / (ceil_div(channels, strip) * groups), 1, kMostSplits);
  return clamp(rows * strip * item / share_of(inner), 1, room);
}

GK_ENTRY(gk_batch_norm_act_forward, const void* x, const void* weight, const void* bias, const void* running_mean,
         const void* running_var, void* y, void* mean, void* invstd, void* variance, void* sums, gk::i64 groups,
         gk::i64 cells, gk::i64 rows, gk::i64 channels, gk::i64 inner, gk::i64 dtype, gk::i64 narrow, gk::i64 act,
         double eps, double alpha, double gain) {
  gk::BatchNormActParams p = {};
  if (const char* error = gk::fill(p, groups, cells, rows, channels, inner, dtype, act, alpha, gain)) return error;
  if (!sums && !(running_mean && running_var))
    return gk::fail("sums: got null with no running_mean and running_var, expected one or the other");
  p.x = x;
  p.out[0] = y;
  const bool pixels = cells == gk::kNormPixels;
  if (pixels) {
    p.scale = weight;
    p.shift = bias;
  } else {
    p.weight = gk::channels_of(weight, narrow, 0);
    p.bias = gk::channels_of(bias, narrow, 1);
  }
  if (!sums) {
    p.mean = gk::channels_of(running_mean, narrow, 2);
    p.spread = gk::channels_of(running_var, narrow, 3);
  }
  p.batch_mean = mean;
  p.invstd = invstd;
  p.variance = variance;
  p.sums = sums;
  p.eps = eps;
  const gk::Plan plan(launcher, p, dtype, gk::kNormForward, pixels);
  if (cells == gk::kNormInstance && sums && y && plan.fits()) return plan.whole();
  if (sums)
    if (const char* error = plan.moments()) return error;
  return y ? plan.apply() : plan.finish();
}

GK_ENTRY(gk_batch_norm_act_backward, const void* g, const void* x, const void* weight, const void* bias,
         const void* mean, const void* invstd, void* gx, void* grad_weight, void* grad_bias, void* sums, void* totals,
         gk::i64 groups, gk::i64 cells, gk::i64 rows, gk::i64 channels, gk::i64 inner, gk::i64 dtype, gk::i64 narrow,
         gk::i64 batch_statistics, gk::i64 act, double alpha, double gain) {
  gk::BatchNormActParams p = {};
  if (const char* error = gk::fill(p, groups, cells, rows, channels, inner, dtype, act, alpha, gain)) return error;
  p.x = x;
  p.g = g;
  p.out[0] = gx;
  p.mean = gk::channels_of(mean, narrow, 2);
  p.spread = gk::channels_of(invstd, narrow, 3);
  p.sums = sums;
  p.totals = totals;
  p.batch_statistics = static_cast<gk::i32>(batch_statistics);
  if (cells == gk::kNormPixels) {
    p.scale = weight;
    p.shift = bias;
    p.scale_grad = grad_weight;
    p.shift_grad = grad_bias;
    return gk::pixel_derivative(gk::Plan(launcher, p, dtype, gk::kNormBackward, true));
  }
  p.weight = gk::channels_of(weight, narrow, 0);
  p.bias = gk::channels_of(bias, narrow, 1);
  p.grad_weight = gk::channels_of(grad_weight, narrow, 4);
  p.grad_bias = gk::channels_of(grad_bias, narrow, 5);
  return gk::derivative(gk::Plan(launcher, p, dtype, gk::kNormBackward), cells);
}

GK_ENTRY(gk_batch_norm_act_second, const void* v, const void* p, const void* q, const void* g, const void* x,
         const void* weight, const void* bias, const void* mean, const void* invstd, void* gg, void* gx,
         void* grad_weight, void* grad_bias, void* sums, void* totals, gk::i64 groups, gk::i64 cells, gk::i64 rows,
         gk::i64 channels, gk::i64 inner, gk::i64 dtype, gk::i64 narrow, gk::i64 batch_statistics, gk::i64 act,
         double alpha, double gain) {
  gk::BatchNormActParams params = {};
  if (const char* error = gk::fill(params, groups, cells, rows, channels, inner, dtype, act, alpha, gain)) return error;
  params.x = x;
  params.g = g;
  params.v = v;
  params.out[0] = gg;
  params.out[1] = gx;
  params.mean = gk::channels_of(mean, narrow, 4);
  params.spread = gk::channels_of(invstd, narrow, 5);
  params.sums = sums;
  params.totals = totals;
  params.batch_statistics = static_cast<gk::i32>(batch_statistics);
  if (cells == gk::kNormPixels) {
    params.scale = weight;
    params.shift = bias;
    params.pixel_p = p;
    params.pixel_q = q;
    params.scale_grad = grad_weight;
    params.shift_grad = grad_bias;
    return gk::pixel_derivative(gk::Plan(launcher, params, dtype, gk::kNormSecond, true));
  }
  params.p = gk::channels_of(p, narrow, 0);
  params.q = gk::channels_of(q, narrow, 1);
  params.weight = gk::channels_of(weight, narrow, 2);
  params.bias = gk::channels_of(bias, narrow, 3);
  params.grad_weight = gk::channels_of(grad_weight, narrow, 6);
  params.grad_bias = gk::channels_of(grad_bias, narrow, 7);
  return gk::derivative(gk::Plan(launcher, params, dtype, gk::kNormSecond), cells);
}
