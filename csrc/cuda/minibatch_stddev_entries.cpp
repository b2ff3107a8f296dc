// minibatch_stddev's entries: geometry and instantiation of each launch.
#include <initializer_list>

#include "minibatch_stddev_params.h"

namespace gk {
namespace {

constexpr i64 kPiece = 2048;   // positions that pay for a block of their own
constexpr i64 kBlocks = 1024;  // blocks that fill a large GPU

const char* fill_in(StddevParams& p, const i64* shape, i64 dtype) {
  const i64 n = shape[0], c = shape[1], pixels = shape[2], group = shape[3], channels = shape[4];
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (n < 1 || c < 1 || pixels < 1) return fail("shape: got %lld, %lld, %lld, expected 1 or more", n, c, pixels);
  if (group < 1 || n % group) return fail("group: got %lld, expected a divisor of %lld samples", group, n);
  if (channels < 1 || c % channels) return fail("channels: got %lld, expected a divisor of %lld", channels, c);
  p.layout = StddevLayout::of(n, c, pixels, group, channels, shape[5]);
  p.run = Divider::of(p.layout.run);
  p.pixels = Divider::of(pixels);
  p.channels = Divider::of(channels);
  p.splits = Divider::of(gk_minibatch_stddev_splits(p.layout.lots * channels, p.layout.count));
  return nullptr;
}

u32 lots(const StddevParams& p) { return static_cast<u32>(p.layout.lots * p.layout.channels); }

const char* pass(const Launcher* launcher, StddevParams& p, i64 dtype, int order) {
  const StddevLayout& l = p.layout;
  i64 pack = 16 / type_bytes(dtype);
  for (const i64 stride : {l.run, l.x_sample, l.y_sample, l.x_run, l.y_run})
    if (stride % pack) pack = 1;
  for (const void* pointer : {p.x, p.v, p.gy, static_cast<const void*>(p.y), static_cast<const void*>(p.gx)})
    if (!aligned(pointer, 16)) pack = 1;
  p.piece = ceil_div(ceil_div(l.count, p.splits.by), pack) * pack;
  Launch launch = launch_of(p, lots(p) * static_cast<u32>(p.splits.by), kStddevThreads);
  name_kernel(launch, "gk::minibatch_stddev_pass<%s, %d, %d>", type_name(dtype), order, static_cast<int>(pack));
  return launcher->run(launcher, &launch);
}

const char* planes(const Launcher* launcher, const StddevParams& p, i64 dtype, const char* what) {
  Launch launch = launch_of(p, lots(p), kStddevThreads);
  name_kernel(launch, "gk::minibatch_stddev_%s<%s>", what, type_name(dtype));
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(minibatch_stddev, GK_MINIBATCH_STDDEV_KERNELS)

extern "C" gk::i64 gk_minibatch_stddev_splits(gk::i64 lots, gk::i64 count) {
  using namespace gk;
  const i64 useful = ceil_div(count, kPiece), room = ceil_div(kBlocks, lots);
  return useful < room ? useful : room;
}

GK_ENTRY(gk_minibatch_stddev_value, const void* x, void* y, void* sums, const gk::i64* shape, gk::i64 dtype) {
  gk::StddevParams p = {};
  if (const char* error = gk::fill_in(p, shape, dtype)) return error;
  p.x = x;
  p.y = y;
  p.sums = sums;
  if (const char* error = gk::pass(launcher, p, dtype, 0)) return error;
  return gk::planes(launcher, p, dtype, "fill");
}

GK_ENTRY(gk_minibatch_stddev_backward, const void* gy, const void* x, void* gx, void* scales, const gk::i64* shape,
         gk::i64 dtype) {
  gk::StddevParams p = {};
  if (const char* error = gk::fill_in(p, shape, dtype)) return error;
  p.x = x;
  p.gy = gy;
  p.gx = gx;
  p.scales = scales;
  if (const char* error = gk::planes(launcher, p, dtype, "scales")) return error;
  return gk::pass(launcher, p, dtype, 1);
}

GK_ENTRY(gk_minibatch_stddev_double_backward, const void* v, const void* gy, const void* x, void* ggy, void* gx,
         void* sums, void* scales, const gk::i64* shape, gk::i64 dtype) {
  gk::StddevParams p = {};
  if (const char* error = gk::fill_in(p, shape, dtype)) return error;
  p.x = x;
  p.v = v;
  p.gy = gy;
  p.y = ggy;
  p.gx = gx;
  p.sums = ggy ? sums : nullptr;
  p.scales = scales;
  if (const char* error = gk::planes(launcher, p, dtype, "scales")) return error;
  if (const char* error = gk::pass(launcher, p, dtype, 2)) return error;
  return ggy ? gk::planes(launcher, p, dtype, "fill") : nullptr;
}
