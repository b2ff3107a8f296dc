// grid_sample2d's entry: geometry and instantiation of a launch.
#include "grid_sample2d_params.h"

namespace gk {
namespace {

constexpr i64 kBlocks = 1024;       // blocks that fill a large GPU
constexpr i64 kChannelsAtOnce = 4;  // channels that pay for finding a point's pixels again

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(grid_sample2d, GK_GRID_SAMPLE2D_KERNELS)

GK_ENTRY(gk_grid_sample2d, gk::i64 what, const void* x, const void* grid, const void* along, void* y, void* sums,
         const gk::i64* shape, const gk::i64* settings, gk::i64 dtype, gk::i64 grid_dtype) {
  using namespace gk;
  const i64 n = shape[0], channels = shape[1], height = shape[2], width = shape[3], points = n * shape[4] * shape[5];
  const bool last = shape[6];
  if (what < 0 || what > 2) return fail("what: got %lld, expected 0, 1 or 2", what);
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  const i64 acc = dtype == kFloat64 ? kFloat64 : kFloat32;
  if (grid_dtype != dtype && grid_dtype != acc)
    return fail("grid: got dtype code %lld, expected %lld", grid_dtype, acc);
  if (points < 1 || height < 1 || width < 1) return fail("shape: got an empty one, expected 1 or more of all");
  SampleParams p = {};
  p.x = x;
  p.grid = grid;
  p.along = along;
  p.y = y;
  p.sums = sums;
  p.settings = {static_cast<int>(settings[0]), static_cast<int>(settings[1]), static_cast<int>(settings[2])};
  p.order = static_cast<i32>(settings[3]);
  p.height = static_cast<i32>(height);
  p.width = static_cast<i32>(width);
  p.out_height = static_cast<i32>(shape[4]);
  p.out_width = static_cast<i32>(shape[5]);
  p.affine = shape[7] != 0;
  p.acc_grid = grid_dtype == acc;
  p.points = points;
  p.channels = channels;
  p.x_pixel = last ? channels : 1;
  p.x_channel = last ? 1 : height * width;
  p.y_channel = last ? 1 : shape[4] * shape[5];
  p.out_pixels = Divider::of(shape[4] * shape[5]);
  p.row = Divider::of(shape[5]);
  i64 pack = last ? 16 / type_bytes(dtype) : 1;
  if (channels % pack || !aligned(y, 16) || (what != 1 && !aligned(x, 16))) pack = 1;
  if (last)
    while ((pack << p.lanes_shift) < channels && p.lanes_shift < 5) ++p.lanes_shift;
  const i64 blocks = ceil_div(points << p.lanes_shift, kSampleThreads);
  i64 splits = 1;  // of the channels, where points are few
  if (what < 2 && !last && blocks < kBlocks) {
    const i64 useful = ceil_div(channels, kChannelsAtOnce), room = ceil_div(kBlocks, blocks);
    splits = useful < room ? useful : room;
  }
  p.channels_a_block = ceil_div(channels > 0 ? channels : 1, splits > 0 ? splits : 1);
  Launch launch = launch_of(p, static_cast<u32>(blocks), kSampleThreads);
  launch.grid[1] = static_cast<u32>(ceil_div(channels > 0 ? channels : 1, p.channels_a_block));
  name_kernel(launch, "gk::grid_sample2d_walk<%s, %d, %d>", type_name(dtype), static_cast<int>(what),
              static_cast<int>(pack));
  return launcher->run(launcher, &launch);
}
