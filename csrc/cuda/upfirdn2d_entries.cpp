// upfirdn2d's entries: which kernel, its tiles and its launch.
#include "upfirdn2d_params.h"

namespace gk {
namespace {

constexpr i64 kSmall = i64(1) << 24;  // sizes, and padding, whose sums fit an i32 with room
constexpr i64 kLines = 32;            // threads of a warp, and banks of shared memory
constexpr i64 kTasks = 2 * kFirThreads;

struct FirCall {
  const void *x, *f, *fy;
  void* y;
  i64 planes, channels;
  FirAxis h, v;
  i64 flip, dtype, float_filter;
  double gain;
};

i64 floor_div(i64 a, i64 b) { return a / b - (a % b < 0); }
i64 round_up(i64 a, i64 to) { return ceil_div(a, to) * to; }
i64 power_of_two(i64 at_least) {
  i64 power = 1;
  while (power < at_least) power *= 2;
  return power;
}
i32 log2_of(i64 power) {
  i32 bits = 0;
  while (i64(1) << bits < power) ++bits;
  return bits;
}

bool small(const FirAxis& a) {
  return a.in < kSmall && a.out < kSmall && a.pad0 < kSmall && a.pad0 > -kSmall && a.taps < kSmall;
}

const char* check(const FirCall& c, const char* which) {
  const FirAxis axes[] = {c.h, c.v};
  if (!type_name(c.dtype)) return fail("dtype: got code %lld, expected 0 to 3", c.dtype);
  if (c.planes < 0 || c.channels < 0) return fail("planes, channels: got %lld, %lld", c.planes, c.channels);
  for (const FirAxis& a : axes)
    if (a.in < 1 || a.out < 1 || a.taps < 1 || a.up < 1 || a.down < 1)
      return fail("%s: got an axis of %lld samples to %lld with %lld taps, up %lld, down %lld, expected 1 or more",
                  which, static_cast<i64>(a.in), static_cast<i64>(a.out), static_cast<i64>(a.taps),
                  static_cast<i64>(a.up), static_cast<i64>(a.down));
  return nullptr;
}

// The factor and most taps of the tile kernel for a call; most is 0 where upfirdn2d_any is to run.
struct FirKind {
  i64 up, down, most;
  bool separable;
  i64 shift(const FirAxis& a) const { return ((-a.pad0) % up + up) % up; }
};

FirKind kind_of(const FirCall& c) {
  FirKind kind = {c.h.up, c.h.down, 0, c.fy != nullptr};
  const bool rate = (kind.up == 1 && (kind.down == 1 || kind.down == 2 || kind.down == 4)) ||
                    (kind.down == 1 && (kind.up == 2 || kind.up == 4));
  if (!rate || c.v.up != kind.up || c.v.down != kind.down || !small(c.h) || !small(c.v) || c.dtype == kFloat64)
    return kind;
  const i64 x = c.h.taps + kind.shift(c.h), y = c.v.taps + kind.shift(c.v), taps = x > y ? x : y;
  const bool four = kind.up == 4 || kind.down == 4;
  const i64 most = four ? 24 : taps <= 4 ? 4 : 12;
  if (taps <= most && (kind.separable || !four)) kind.most = most;
  return kind;
}

FirTileAxis tile_axis(const FirAxis& a, const FirKind& kind, i64 group) {
  FirTileAxis t = {};
  t.in = static_cast<i32>(a.in);
  t.out = static_cast<i32>(a.out);
  t.taps = static_cast<i32>(a.taps);
  t.shift = static_cast<i32>(kind.shift(a));
  t.window = static_cast<i32>(((group - 1) * kind.down + a.taps + t.shift - 1) / kind.up + 1);
  t.first = static_cast<i32>(floor_div(-a.pad0, kind.up));
  return t;
}

FirTileParams tile_params(const FirCall& c, const FirKind& kind, i64 across, i64 rows) {
  FirTileParams p = {};
  p.x = c.x, p.f = c.f, p.fy = c.fy, p.y = c.y;
  p.gain = c.gain;
  p.planes = c.planes, p.channels = c.channels;
  p.h = tile_axis(c.h, kind, across);
  p.v = tile_axis(c.v, kind, rows);
  p.flip = static_cast<i32>(c.flip), p.float_filter = static_cast<i32>(c.float_filter);
  p.exact = p.h.shift + p.v.shift == 0 && p.h.taps == kind.most && p.v.taps == kind.most;
  return p;
}

// Sets what follows from `groups` groups of `R` rows of `planes` planes a tile; `pace` rows of x go with a group.
void set_rows(FirTileParams& p, i64 groups, i64 R, i64 pace, i64 planes) {
  p.rows = static_cast<i32>(groups * R);
  p.in_rows = static_cast<i32>((groups - 1) * pace + p.v.window);
  p.v.step = static_cast<i32>(groups * pace);
  p.tile_planes = static_cast<i32>(planes);
  p.plane_groups_shift = log2_of(groups);
  p.groups_shift = log2_of(groups * planes);
  p.by_plane_groups = SmallDivider::of(ceil_div(p.in_rows, pace));
  p.by_groups = SmallDivider::of(p.by_plane_groups.by * planes);
}

// Places where the rows are, the filter and `raw_rows` rows of the tile; the bytes they take.
i64 place_tile(FirTileParams& p, const FirKind& kind, i64 pace, i64 raw_rows) {
  p.weights_at = static_cast<i32>(round_up((pace * p.by_groups.by + p.rows * p.tile_planes) * 8, 16));
  p.raw_at = p.weights_at + static_cast<i32>((kind.separable ? 2 * kind.most : kind.most * kind.most) * 4);
  p.sums_at = p.raw_at + static_cast<i32>(raw_rows * p.packs * 16);
  for (i64 n = 0; n < p.v.window && n < kFirRows; ++n)
    p.row_offset[n] = static_cast<i32>((n % pace * p.by_groups.by + n / pace) * p.packs * 16);
  return p.sums_at;
}

const char* launch_tiles(const Launcher* launcher, FirTileParams& p, const FirCall& c, const FirKind& kind,
                         const char* kernel, i64 columns, i64 shared) {
  p.tiles_x = Divider::of(ceil_div(p.h.out, columns));
  p.tiles_y = Divider::of(ceil_div(p.v.out, p.rows));
  const i64 blocks = p.tiles_x.by * p.tiles_y.by * p.tiles_c.by * ceil_div(p.planes, p.tile_planes);
  if (blocks >= i64(1) << 31) return fail("y: got a tensor of %lld tiles, expected fewer than 2^31", blocks);
  Launch launch = launch_of(p, static_cast<u32>(blocks), kFirThreads, static_cast<u32>(shared));
  name_kernel(launch, "gk::%s<%s, %lld, %lld, %lld, %s>", kernel, type_name(c.dtype), kind.up, kind.down, kind.most,
              kind.separable ? "true" : "false");
  return launcher->run(launcher, &launch);
}

// Shared memory that a tile may take: less for few taps, whose halo is small whatever the tile.
i64 budget(const FirKind& kind) { return kind.most > 4 ? 47 * 1024 : 32 * 1024; }

// Plans shared memory for upfirdn2d_rows; bytes.
i64 plan_rows(FirTileParams& p, const FirKind& kind, i64 pack, i64 pace) {
  const i64 deal = pack * kind.down / kind.up;  // planes
  p.pitch = static_cast<i32>(p.packs * pack / deal);
  const i64 slots_in = pace * p.by_groups.by, slots = kind.separable ? p.rows * p.tile_planes : slots_in;
  i64 stride = round_up(slots * p.pitch, 4);
  const i64 turns = deal / pack;  // packs that go to planes of their own: their banks must differ
  if (turns > 1)
    while (pack * stride % kLines != kLines / turns) ++stride;
  p.stride = static_cast<i32>(stride);
  i64 at = place_tile(p, kind, pace, kind.separable ? slots_in : 0) + deal * stride * 4;
  if (!p.wide_out) {
    p.staged_at = static_cast<i32>(at);
    at += static_cast<i64>(p.rows) * p.tile_planes * p.lanes * 16;
  }
  return at;
}

const char* run_rows(const Launcher* launcher, const FirCall& c, const FirKind& kind) {
  const i64 pack = 16 / type_bytes(c.dtype);
  const i64 R = fir_rows_at_once(static_cast<int>(pack), static_cast<int>(kind.up), kind.separable);
  const i64 pace = R * kind.down / kind.up;
  const i64 deal = pack * kind.down / kind.up;
  FirTileParams p = tile_params(c, kind, pack, R);
  p.wide_in = aligned(c.x, 16) && c.h.in % pack == 0;
  p.wide_out = aligned(c.y, 16) && c.h.out % pack == 0;
  const i64 packs_out = ceil_div(c.h.out, pack), most = kLines / kind.down;
  p.lanes = static_cast<i32>(packs_out < most ? power_of_two(packs_out) : most);
  p.lanes_shift = log2_of(p.lanes);
  const bool slim = packs_out < 8;  // wider tiles begin and end at sectors of 32 bytes
  const i64 align = slim ? pack : 2 * pack, lead = p.h.first - floor_div(p.h.first, align) * align;
  p.h.first -= static_cast<i32>(lead);
  p.h.step = static_cast<i32>(p.lanes * deal);
  const i64 turns = deal > pack ? deal / pack : 1;
  const i64 packs = ceil_div(lead + (p.lanes - 1) * deal + p.h.window, pack);
  p.packs = static_cast<i32>(round_up(packs, slim || turns > 2 ? turns : 2));
  p.by_packs = SmallDivider::of(p.packs);
  p.tiles_c = Divider::of(1);
  i64 groups = 1, planes = 1;
  const auto fits = [&](i64 g, i64 n) {
    set_rows(p, g, R, pace, n);
    return g * n * (kind.separable ? R : 1) * p.lanes <= kTasks && plan_rows(p, kind, pack, pace) <= budget(kind);
  };
  while (groups * R < c.v.out && fits(2 * groups, 1)) groups *= 2;
  while (groups * R >= c.v.out && planes < c.planes && fits(groups, 2 * planes)) planes *= 2;
  set_rows(p, groups, R, pace, planes);
  const i64 shared = plan_rows(p, kind, pack, pace);
  p.by_width = SmallDivider::of(p.lanes == kLines ? kLines : p.pitch);
  for (i64 n = 0; n < p.h.window; ++n)
    p.offset[n] = static_cast<i32>(((lead + n) % deal * p.stride + (lead + n) / deal) * 4);
  return launch_tiles(launcher, p, c, kind, "upfirdn2d_rows", p.lanes * pack, shared);
}

// Plans shared memory for upfirdn2d_pixels; bytes.
i64 plan_pixels(FirTileParams& p, const FirKind& kind, i64 pack, i64 pace) {
  p.in_columns = static_cast<i32>((p.column_groups - 1) * pace + p.h.window);
  p.packs = static_cast<i32>((p.in_columns | 1) * p.lanes);  // odd: rows that a warp reads at once differ in banks
  p.by_packs = SmallDivider::of(p.packs);
  p.stride = p.rows * p.packs;
  i64 at = place_tile(p, kind, pace, pace * p.by_groups.by);
  if (kind.separable) at += static_cast<i64>(p.stride) * pack * 4;
  return at;
}

const char* run_pixels(const Launcher* launcher, const FirCall& c, const FirKind& kind) {
  const i64 pack = 16 / type_bytes(c.dtype), R = fir_pixels_at_once(static_cast<int>(kind.up));
  const i64 pace = R * kind.down / kind.up;
  FirTileParams p = tile_params(c, kind, R, R);
  p.channels = c.channels / pack;
  const i64 sectors = kind.most > 4 ? 1 : 2;  // of a pixel in a tile: few where halos are wide
  i64 groups = 1, columns = 1, lanes = power_of_two(p.channels < 2 * sectors ? p.channels : 2 * sectors);
  const auto fits = [&](i64 g, i64 w, i64 l) {
    p.lanes = static_cast<i32>(l);
    p.lanes_shift = log2_of(l);
    p.column_groups = static_cast<i32>(w);
    set_rows(p, g, R, pace, 1);
    const i64 shared = plan_pixels(p, kind, pack, pace);
    return g * w * l * (kind.separable ? R : 1) <= kTasks && shared <= budget(kind) ? shared : 0;
  };
  for (bool grown = true; grown;) {
    grown = false;
    if (columns * R < c.h.out && fits(groups, columns + 1, lanes)) ++columns, grown = true;
    while (groups * R < c.v.out && groups < columns && fits(2 * groups, columns, lanes)) groups *= 2, grown = true;
  }
  while (lanes < p.channels && fits(groups, columns, 2 * lanes)) lanes *= 2;
  const i64 shared = fits(groups, columns, lanes);
  if (!shared) return fail("filter: got %lld x %lld taps, expected a tile that fits", p.v.taps + 0LL, p.h.taps + 0LL);
  p.h.step = static_cast<i32>(columns * pace);
  p.tiles_c = Divider::of(ceil_div(p.channels, lanes));
  return launch_tiles(launcher, p, c, kind, "upfirdn2d_pixels", columns * R, shared);
}

FirAnyAxis any_axis(const FirAxis& a) {
  return {Divider::of(a.up), a.in, a.down, a.taps, a.pad0, a.pad0 > 0 ? round_up(a.pad0, a.up) : 0};
}

template <class Params>
void set_items(Params& p, const FirCall& c, i64 pack) {
  p.items = c.planes * c.v.out * c.h.out * c.channels / pack;
  p.channels = Divider::of(c.channels / pack);
  p.out_width = Divider::of(c.h.out);
  p.out_height = Divider::of(c.v.out);
  p.h = any_axis(c.h);
  p.v = any_axis(c.v);
}

bool packed(const FirCall& c) {
  return aligned(c.x, 16) && aligned(c.y, 16) && c.channels % (16 / type_bytes(c.dtype)) == 0;
}

const char* run_any(const Launcher* launcher, const FirCall& c) {
  const i64 pack = packed(c) ? 16 / type_bytes(c.dtype) : 1;
  FirAnyParams p = {};
  p.x = c.x, p.f = c.f, p.fy = c.fy, p.y = c.y;
  p.gain = c.gain;
  set_items(p, c, pack);
  p.flip = static_cast<i32>(c.flip), p.float_filter = static_cast<i32>(c.float_filter);
  const i64 blocks = ceil_div(p.items, kFirThreads);
  if (blocks >= i64(1) << 31) return fail("y: got %lld blocks of elements, expected fewer than 2^31", blocks);
  Launch launch = launch_of(p, static_cast<u32>(blocks), kFirThreads);
  name_kernel(launch, "gk::upfirdn2d_any<%s, %lld>", type_name(c.dtype), pack);
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(upfirdn2d, GK_UPFIRDN2D_KERNELS)

GK_ENTRY(gk_upfirdn2d_forward, const void* x, const void* f, const void* fy, void* y, gk::i64 planes, gk::i64 channels,
         gk::i64 height, gk::i64 width, gk::i64 out_height, gk::i64 out_width, gk::i64 taps_y, gk::i64 taps_x,
         gk::i64 up_x, gk::i64 up_y, gk::i64 down_x, gk::i64 down_y, gk::i64 pad_x, gk::i64 pad_y, gk::i64 flip,
         double gain, gk::i64 dtype, gk::i64 filter_dtype) {
  const gk::FirCall c = {x,
                         f,
                         fy,
                         y,
                         planes,
                         channels,
                         {width, out_width, taps_x, up_x, down_x, pad_x},
                         {height, out_height, taps_y, up_y, down_y, pad_y},
                         flip,
                         dtype,
                         filter_dtype == gk::kFloat32,
                         gain};
  if (const char* error = gk::check(c, "upfirdn2d")) return error;
  if (filter_dtype != gk::kFloat32 && filter_dtype != dtype)
    return gk::fail("filter_dtype: got code %lld, expected 0 or that of x, %lld", filter_dtype, dtype);
  if (planes * channels == 0) return nullptr;
  const gk::FirKind kind = gk::kind_of(c);
  if (kind.most && channels == 1 && out_width * gk::type_bytes(dtype) >= 16) return gk::run_rows(launcher, c, kind);
  if (kind.most && channels > 1 && gk::packed(c)) return gk::run_pixels(launcher, c, kind);
  return gk::run_any(launcher, c);
}

extern "C" gk::i64 gk_upfirdn2d_splits(gk::i64 numel, gk::i64 taps) {
  using namespace gk;
  constexpr i64 kShare = 4 * kFirThreads, kBlocks = 1024;  // elements that pay for a block; blocks that fill a GPU
  const i64 useful = numel / kShare, room = ceil_div(kBlocks, ceil_div(taps, kFirTaps));
  return useful < 1 ? 1 : useful < room ? useful : room;
}

GK_ENTRY(gk_upfirdn2d_filter_grad, const void* x, const void* g, void* out, void* workspace, gk::i64 planes,
         gk::i64 channels, gk::i64 height, gk::i64 width, gk::i64 out_height, gk::i64 out_width, gk::i64 taps_y,
         gk::i64 taps_x, gk::i64 up_x, gk::i64 up_y, gk::i64 down_x, gk::i64 down_y, gk::i64 pad_x, gk::i64 pad_y,
         gk::i64 flip, double gain, gk::i64 dtype) {
  using namespace gk;
  const FirCall c = {x,
                     nullptr,
                     nullptr,
                     const_cast<void*>(g),
                     planes,
                     channels,
                     {width, out_width, taps_x, up_x, down_x, pad_x},
                     {height, out_height, taps_y, up_y, down_y, pad_y},
                     flip,
                     dtype,
                     1,
                     gain};
  if (const char* error = check(c, "upfirdn2d_filter_grad")) return error;
  const i64 pack = packed(c) ? 16 / type_bytes(dtype) : 1, taps = taps_y * taps_x;
  const i64 splits = gk_upfirdn2d_splits(planes * channels * out_height * out_width, taps);
  FirFilterGradParams p = {};
  p.x = x, p.g = g;
  p.sums = static_cast<double*>(workspace);
  set_items(p, c, pack);
  p.taps_x = Divider::of(taps_x);
  Launch launch = launch_of(p, static_cast<u32>(splits), kFirThreads);
  const i64 chunks = ceil_div(taps, kFirTaps);
  if (chunks > 65535) return fail("taps: got %lld x %lld, expected at most 2^20", taps_y, taps_x);
  launch.grid[1] = static_cast<u32>(chunks);
  name_kernel(launch, "gk::upfirdn2d_filter_grad<%s, %lld>", type_name(dtype), pack);
  if (const char* error = launcher->run(launcher, &launch)) return error;
  const FirFilterSumsParams sums = {p.sums, out, gain, taps, splits, static_cast<i32>(flip)};
  launch = launch_of(sums, static_cast<u32>(taps), kFirThreads);
  name_kernel(launch, "gk::upfirdn2d_filter_sums<%s>", dtype == kFloat64 ? "double" : "float");
  return launcher->run(launcher, &launch);
}
