// fade_in's entries: geometry and instantiation of each launch.
#include <algorithm>

#include "fade_in_params.h"

namespace gk {
namespace {

constexpr i64 kBlocks = 2048;  // that fill a large GPU, a few times over

struct Image {
  i64 rows, columns, inner, r;
};

// How a launch lies.
struct Plan {
  bool in_rows;
  i64 pack, row, pixel, positions, share, blocks;  // row, pixel: by what positions are divided

  Plan(const Image& m, i64 wide, i64 dtype) {
    const i64 most = 16 / type_bytes(dtype), numel = m.rows * m.columns * m.inner;
    // Where nothing is enlarged, all is one row.
    const i64 columns = m.r == 1 ? numel : m.columns;
    in_rows = wide && (m.r == 1 || (m.r == 2 && m.inner == 1)) && columns % (most / m.r) == 0;
    pack = in_rows ? most : wide && m.inner % most == 0 ? most : 1;
    row = in_rows ? columns / (most / m.r) : m.columns;
    pixel = in_rows ? 1 : m.inner / pack;
    positions = in_rows ? numel / (most / m.r) : numel / pack;
    blocks = std::min(ceil_div(positions, kFadeThreads), kBlocks);
    share = ceil_div(ceil_div(positions, blocks), kFadeThreads) * kFadeThreads;
    blocks = ceil_div(positions, share);
  }
};

const char* run(const Launcher* launcher, FadeInParams& p, const Image& m, i64 difference, i64 wide, i64 dtype,
                double factor, const char* kernel) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (m.rows < 1 || m.columns < 1 || m.inner < 1 || m.r < 1 || m.r > 0x7fffffff)
    return fail("sizes: got %lld x %lld x %lld and factor %lld, expected 1 or more", m.rows, m.columns, m.inner, m.r);
  for (const void* pointer :
       {p.x, p.l, p.x2, p.l2, p.g, static_cast<const void*>(p.out), static_cast<const void*>(p.out_l)})
    if (wide && !aligned(pointer, 16)) return fail("wide: got 1, but a pointer is no multiple of 16 bytes");
  const Plan plan(m, wide, dtype);
  p.positions = plan.positions;
  p.share = plan.share;
  p.row = Divider::of(plan.row);
  p.pixel = Divider::of(plan.pixel);
  p.r = static_cast<i32>(m.r);
  p.difference = static_cast<i32>(difference);
  p.factor = static_cast<float>(factor);
  p.wide_factor = factor;
  Launch launch = launch_of(p, static_cast<u32>(plan.blocks), kFadeThreads);
  name_kernel(launch, "gk::fade_in_%s_%s<%s, %d>", kernel, plan.in_rows ? "rows" : "any", type_name(dtype),
              static_cast<int>(plan.in_rows ? m.r : plan.pack));
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(fade_in, GK_FADE_IN_KERNELS)

extern "C" gk::i64 gk_fade_in_blocks(gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 wide,
                                     gk::i64 dtype) {
  return gk::Plan({rows, columns, inner, r}, wide, dtype).blocks;
}

GK_ENTRY(gk_fade_in_value, const void* x, const void* l, const void* a, const void* x2, const void* l2, const void* a2,
         void* y, gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 difference, gk::i64 wide,
         gk::i64 dtype, double factor) {
  if ((x2 || l2) && !a2) return gk::fail("a2: got null, expected the number of the second difference");
  gk::FadeInParams p = {};
  p.x = x;
  p.l = l;
  p.a = a;
  p.x2 = x2;
  p.l2 = l2;
  p.a2 = a2;
  p.out = y;
  return gk::run(launcher, p, {rows, columns, inner, r}, difference, wide, dtype, factor, "value");
}

GK_ENTRY(gk_fade_in_adjoint, const void* g, const void* x, const void* l, const void* a, void* gx, void* gl, void* sums,
         gk::i64 rows, gk::i64 columns, gk::i64 inner, gk::i64 r, gk::i64 difference, gk::i64 wide, gk::i64 dtype,
         double factor) {
  if (!g) return gk::fail("g: got null, expected the gradient of the result");
  gk::FadeInParams p = {};
  p.g = g;
  p.x = x;
  p.l = l;
  p.a = a;
  p.out = gx;
  p.out_l = gl;
  p.sums = sums;
  return gk::run(launcher, p, {rows, columns, inner, r}, difference, wide, dtype, factor, "adjoint");
}
