// filtered_lrelu's entries: which kernel, its tiles and its launch.
#include <initializer_list>

#include "filtered_lrelu_params.h"

namespace gk {
namespace {

constexpr i64 kSmall = i64(1) << 24;  // sizes, and padding, whose sums fit an i32 with room
constexpr i64 kBanks = 32;
constexpr i64 kTileBytes = 32 * 1024;  // of shared memory, where registers hold the upsampled image
constexpr i64 kAnyBytes = 47 * 1024;

struct FilteredCall {
  i64 n, features, channels_last, separable_up, separable_down, dtype;
};

struct FilteredPlan {
  FilteredParams p;
  const char* kernel;  // of the list, without its types
  i64 threads, shared, blocks;
};

i64 round_up(i64 a, i64 to) { return ceil_div(a, to) * to; }
i64 positive(i64 a, i64 modulo) { return (a % modulo + modulo) % modulo; }

FilteredAxis axis_of(const i64* a) {
  FilteredAxis axis = {};
  i32* to[] = {&axis.in,      &axis.middle,    &axis.out,    &axis.up,      &axis.down,
               &axis.taps_up, &axis.taps_down, &axis.pad_up, &axis.pad_down};
  for (i32* number : to) *number = static_cast<i32>(*a++);
  axis.by_up = SmallDivider::of(axis.up);
  axis.by_down = SmallDivider::of(axis.down);
  return axis;
}

const char* check_axis(const i64* a) {
  for (int i = 0; i < 9; ++i)
    if (a[i] >= kSmall || a[i] < (i < 7 ? 1 : -kSmall))
      return fail(
          "an axis of %lld samples, %lld upsampled, to %lld, up %lld, down %lld, %lld and %lld taps, padding "
          "%lld and %lld: expected 1 to 2^24 each, padding above -2^24",
          a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
  return nullptr;
}

// The factors and taps that filtered_lrelu_tile is compiled for.
bool usual(const FilteredCall& c, const FilteredAxis& h, const FilteredAxis& v) {
  const auto factor = [](i64 n) { return n == 2 || n == 4; };
  const auto alike = [](const FilteredAxis& a) {
    return a.taps_up == kFilteredPhase * a.up && a.taps_down == kFilteredPhase * a.down;
  };
  return c.dtype != kFloat64 && c.separable_up && c.separable_down && h.up == v.up && h.down == v.down &&
         factor(h.up) && factor(h.down) && alike(h) && alike(v);
}

// Tap that the first row of a tile meets first, where all tiles are alike.
i64 first_tap(const FilteredAxis& a) { return positive(a.pad_up + a.pad_down, a.up); }

void set_step(FilteredAxis& a, i64 step, i64 lead, i64 whole, i64 tap) {
  a.step = static_cast<i32>(step);
  a.lead = static_cast<i32>(lead);
  a.middles = static_cast<i32>(round_up(lead + (step - 1) * a.down + a.taps_down, whole));
  a.groups = static_cast<i32>((a.middles - 1 + a.up - 1 - tap) / a.up + 1);
  a.samples = static_cast<i32>(a.groups - 1 + ceil_div(a.taps_up, a.up));
}

// The least number from `at_least` on that is `n` modulo `modulo`.
i64 next_like(i64 at_least, i64 n, i64 modulo) { return at_least + positive(n - at_least, modulo); }

// Numbers of a row of `groups` samples of each of `phases`: the phases of a warp's samples, and their channels, differ
// in banks; and a warp that ends in one row and begins in the next finds them as if they were one, `width` long.
struct Row {
  i64 part, lane, pitch;
  Row(i64 groups, i64 phases, i64 lanes, i64 width) {
    const i64 samples = kBanks / lanes;  // of a warp
    part = phases > 1 ? next_like(groups, samples / phases ? samples / phases : 1, samples) : groups;
    lane = lanes > 1 ? next_like(part * phases, samples, 2 * samples) : part * phases;
    pitch = next_like(lane * lanes, width, kBanks);
  }
};

// Shared memory for tiles of step_x by step_y outputs; bytes, or more than any budget where an index would overflow.
i64 plan_tile(FilteredParams& p, const FilteredCall& c, bool fast, i64 step_x, i64 step_y) {
  const i64 item = c.dtype == kFloat64 ? 8 : 4, lanes = p.lanes;
  const i64 rows = p.v.up > p.v.down ? p.v.up : p.v.down;
  set_step(p.h, step_x, positive(-p.h.pad_down, 4), 4, 0);
  set_step(p.v, step_y, 0, fast ? rows : 1, fast ? first_tap(p.v) : 0);
  const Row x_row(p.h.samples, 1, lanes, p.h.groups), a_row(p.h.groups, p.h.up, lanes, p.h.groups),
      u_row(ceil_div(p.h.middles, p.h.down), p.h.down, lanes, p.h.step);
  const i64 a_pitch = a_row.pitch;
  i64 u_pitch = u_row.pitch;
  if (!c.separable_down)  // outputs of neighbouring rows are `down` rows apart
    for (i64 pitch = u_row.lane * lanes; pitch < u_row.lane * lanes + kBanks; ++pitch)
      if (positive(p.v.down * pitch - p.h.step, kBanks) == 0) {
        u_pitch = pitch;
        break;
      }
  p.x_pitch = static_cast<i32>(x_row.pitch), p.x_lane = static_cast<i32>(x_row.lane);
  p.a_pitch = static_cast<i32>(a_pitch), p.a_lane = static_cast<i32>(a_row.lane);
  p.u_pitch = static_cast<i32>(u_pitch), p.u_lane = static_cast<i32>(u_row.lane);
  p.a_part = static_cast<i32>(a_row.part), p.u_part = static_cast<i32>(u_row.part);
  const i64 x = i64(p.v.samples) * p.x_pitch, a = p.v.samples * a_pitch, scratch = kFilteredAnyThreads / 32 * lanes;
  const i64 middle = p.v.middles * u_pitch, sums = p.v.step * u_pitch;
  const auto most = [](i64 m, i64 n) { return m > n ? m : n; };
  const i64 near = fast ? most(x, sums) : most(most(c.separable_up ? x : 0, middle), scratch);
  const i64 far = fast ? a : most(most(c.separable_up ? a : x, c.separable_down ? sums : 0), scratch);
  const auto filter = [](const FilteredAxis& h, const FilteredAxis& v, bool separable, bool up) {
    const i64 nx = up ? h.taps_up : h.taps_down, ny = up ? v.taps_up : v.taps_down;
    return round_up(separable ? nx + ny : nx * ny, 4);
  };
  p.filter_at = static_cast<i32>(filter(p.h, p.v, c.separable_up, true) * item);
  const i64 filters = p.filter_at + filter(p.h, p.v, c.separable_down, false) * item;
  p.near_at = static_cast<i32>(filters);
  p.far_at = static_cast<i32>(filters + round_up(near * item, 16));
  if (most(most(p.v.samples * a_pitch, middle), p.v.middles * i64(p.h.middles) * lanes) >= 1 << 16 ||
      filters >= 1 << 20)
    return i64(1) << 40;
  return p.far_at + far * item;
}

// About the instructions that a tile takes a thread.
double cost(const FilteredParams& p, const FilteredCall& c, bool fast) {
  const auto turns = [&](i64 tasks, double each) {
    const i64 threads = fast ? kFilteredThreads : kFilteredAnyThreads;
    return static_cast<double>(ceil_div(tasks * p.lanes, threads)) * (each + 6);
  };
  const double up_x = ceil_div(p.h.taps_up, p.h.up), up_y = ceil_div(p.v.taps_up, p.v.up);
  const double load = turns(i64(p.h.samples) * p.v.samples, 8);
  const double across = c.separable_up ? turns(i64(p.h.groups) * p.v.samples, 1.5 * p.h.taps_up + up_x) : 0;
  const i64 middles = i64(p.h.middles) * p.v.middles, outputs = i64(p.h.step) * p.v.step;
  if (fast)
    return load + across + turns(p.h.middles, p.v.middles * (2.0 * kFilteredPhase + 10)) +
           turns(outputs, 2 * p.h.taps_down);
  const double up = turns(middles, 2 * up_y * (c.separable_up ? 1 : up_x) + 20);
  const double down = c.separable_down ? turns(i64(p.h.middles) * p.v.step, 2 * p.v.taps_down) : 0;
  return load + across + up + down + turns(outputs, 2.0 * p.h.taps_down * (c.separable_down ? 1 : p.v.taps_down));
}

// The tile of the least cost that fits; false where none does.
bool choose_tile(FilteredPlan& plan, const FilteredCall& c, bool fast) {
  constexpr i64 kX[] = {4, 8, 12, 16, 24, 32, 40, 48, 56, 64}, kY[] = {2, 4, 8, 12, 16, 24, 32, 48, 64};
  FilteredParams& p = plan.p;
  double best = 0;
  i64 x = 0, y = 0;
  for (const i64 step_x : kX)
    for (const i64 step_y : kY) {
      if ((step_x > 4 && step_x >= p.h.out + 8) || (step_y > 2 && step_y >= 2 * p.v.out)) continue;
      if (plan_tile(p, c, fast, step_x, step_y) > (fast ? kTileBytes : kAnyBytes)) continue;
      const double tiles = static_cast<double>(ceil_div(p.h.out, step_x)) * ceil_div(p.v.out, step_y);
      const double whole = tiles * cost(p, c, fast);
      if (x && whole >= best) continue;
      best = whole, x = step_x, y = step_y;
    }
  if (x) plan.shared = plan_tile(p, c, fast, x, y);
  return x != 0;
}

void set_channels(FilteredParams& p, const FilteredCall& c, i64 lanes) {
  p.lanes = 1, p.lanes_shift = 0;
  while (p.lanes < lanes && p.lanes < p.channels) p.lanes *= 2, ++p.lanes_shift;
  p.planes = c.channels_last ? c.n : c.n * c.features;
  p.tiles_c = Divider::of(ceil_div(p.channels, p.lanes));
}

FilteredPlan plan_of(const FilteredCall& c, const i64* h, const i64* v) {
  FilteredPlan plan = {};
  FilteredParams& p = plan.p;
  p.h = axis_of(h), p.v = axis_of(v);
  p.channels = c.channels_last ? c.features : 1;
  p.features = Divider::of(c.channels_last ? 1 : c.features);
  p.bit_bytes = ceil_div(p.h.middle, 4);
  const bool fast = usual(c, p.h, p.v);
  set_channels(p, c, kFilteredLanes);
  const bool factors = p.h.up < kBanks * kBanks && p.h.down < kBanks * kBanks && p.v.up < kBanks * kBanks &&
                       p.v.down < kBanks * kBanks;  // by which a SmallDivider divides
  bool tiles = factors && choose_tile(plan, c, fast);
  if (factors && !tiles && p.lanes > 1) {
    set_channels(p, c, 1);
    tiles = choose_tile(plan, c, fast);
  }
  if (tiles) {
    plan.kernel = fast ? "filtered_lrelu_tile" : "filtered_lrelu_any";
    plan.threads = fast ? kFilteredThreads : kFilteredAnyThreads;
    p.tiles_x = Divider::of(ceil_div(p.h.out, p.h.step));
    p.tiles_y = Divider::of(ceil_div(p.v.out, p.v.step));
    p.parts = p.tiles_x.by * p.tiles_y.by;
    const i64 lanes = p.lanes;
    p.by_x_row = SmallDivider::of(p.h.samples * lanes);
    p.by_a_row = SmallDivider::of(p.h.groups * lanes);
    p.by_middles = SmallDivider::of(p.h.middles * lanes);
    p.by_out = SmallDivider::of(p.h.step * lanes);
    plan.blocks = p.parts * p.tiles_c.by * p.planes;
    return plan;
  }
  plan.kernel = "filtered_lrelu_direct";
  plan.threads = kFilteredAnyThreads;
  plan.shared = 0;
  p.tiles_c = Divider::of(p.channels);
  p.tiles_x = Divider::of(ceil_div(i64(p.h.out) * p.v.out + p.v.middle * p.bit_bytes, kFilteredAnyThreads));
  p.parts = p.tiles_x.by;
  plan.blocks = p.parts * p.channels * p.planes;
  return plan;
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(filtered_lrelu, GK_FILTERED_LRELU_KERNELS)

extern "C" gk::i64 gk_filtered_lrelu_parts(gk::i64 n, gk::i64 features, gk::i64 channels_last, const gk::i64* h,
                                           const gk::i64* v, gk::i64 separable_up, gk::i64 separable_down,
                                           gk::i64 dtype) {
  if (gk::check_axis(h) || gk::check_axis(v)) return 1;  // the entry says so
  return gk::plan_of({n, features, channels_last, separable_up, separable_down, dtype}, h, v).p.parts;
}

GK_ENTRY(gk_filtered_lrelu, const void* x, const void* bias, const void* fu, const void* fuy, const void* fd,
         const void* fdy, void* y, void* bits, void* sums, gk::i64 n, gk::i64 features, gk::i64 channels_last,
         const gk::i64* h, const gk::i64* v, gk::i64 flip, gk::i64 mode, double up_gain, double gain, double slope,
         double bound, gk::i64 dtype, gk::i64 up_dtype, gk::i64 down_dtype) {
  using namespace gk;
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  for (const i64 filter : {up_dtype, down_dtype})
    if (filter != kFloat32 && filter != dtype)
      return fail("a filter's dtype: got code %lld, expected 0 or that of x, %lld", filter, dtype);
  if (const char* error = check_axis(h)) return error;
  if (const char* error = check_axis(v)) return error;
  if (mode < kNoBits || mode > kReadBits || (mode != kNoBits && !bits))
    return fail("mode: got %lld, expected 0, or 1 or 2 with bits", mode);
  if (mode == kWriteBits && (h[8] || v[8]))
    return fail("padding of the upsampled image: got %lld and %lld, expected 0 where bits are written", h[8], v[8]);
  if (n * features == 0) return nullptr;
  FilteredPlan plan = plan_of({n, features, channels_last, fuy != nullptr, fdy != nullptr, dtype}, h, v);
  if (plan.blocks >= i64(1) << 31) return fail("y: got a tensor of %lld tiles, expected fewer than 2^31", plan.blocks);
  FilteredParams& p = plan.p;
  p.x = x, p.bias = bias, p.fu = fu, p.fuy = fuy, p.fd = fd, p.fdy = fdy;
  p.y = y, p.sums = sums, p.bits = static_cast<unsigned char*>(bits);
  p.up_gain = up_gain, p.above = gain, p.below = gain * slope, p.bound = bound;
  p.above_float = static_cast<float>(p.above), p.below_float = static_cast<float>(p.below);
  p.bound_float = static_cast<float>(bound);
  p.flip = static_cast<i32>(flip), p.mode = static_cast<i32>(mode);
  p.float_up = up_dtype == kFloat32, p.float_down = down_dtype == kFloat32;
  Launch launch =
      launch_of(p, static_cast<u32>(plan.blocks), static_cast<u32>(plan.threads), static_cast<u32>(plan.shared));
  if (plan.threads == kFilteredThreads)
    name_kernel(launch, "gk::%s<%s, %d, %d, %lld>", plan.kernel, type_name(dtype), p.h.up, p.h.down, first_tap(p.v));
  else
    name_kernel(launch, "gk::%s<%s>", plan.kernel, type_name(dtype));
  return launcher->run(launcher, &launch);
}
