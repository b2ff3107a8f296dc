// add_noise's entries: geometry and instantiation of each launch.
#include "add_noise_params.h"

namespace gk {
namespace {

struct Image {
  i64 samples, channels, pixels, last;
  Sizes sizes() const { return last ? Sizes{samples, pixels, channels} : Sizes{samples, channels, pixels}; }
};

// A block that sums columns takes rows enough that what it writes is little beside what it reads.
WalkPlan plan_of(const Image& image, i64 wide, i64 dtype, bool sums) {
  return {image.sizes(), wide ? 16 / type_bytes(dtype) : 1, sums ? 64 : 1};
}

void put_term(AddNoiseParams& p, int term, const Image& image, const void* s, i64 s_step, const void* m, i64 shared) {
  const NoiseLine strength = {s, 0, s_step}, noise = {m, shared ? 0 : image.pixels, 1};
  p.row[term] = image.last ? noise : strength;
  p.column[term] = image.last ? strength : noise;
  p.terms[term] = m != nullptr;
}

const char* run(const Launcher* launcher, AddNoiseParams& p, const Image& image, i64 wide, i64 dtype, double factor,
                const char* kernel) {
  const Sizes s = image.sizes();
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (s.samples < 1 || s.outer < 1 || s.inner < 1)
    return fail("sizes: got %lld x %lld x %lld, expected none of them 0", s.samples, s.outer, s.inner);
  if (wide && !(aligned(p.x, 16) && aligned(p.out, 16) && aligned(p.column_sums, 16)))
    return fail("wide: got 1, but a pointer is no multiple of 16 bytes");
  for (const NoiseLine& line : p.column)
    if (wide && line.step && !aligned(line.at, 16)) return fail("wide: got 1, but noise is no multiple of 16 bytes");
  const WalkPlan plan = plan_of(image, wide, dtype, !p.out);
  const i64 blocks = s.samples * plan.outer_blocks * plan.inner_blocks;
  if (blocks > 0x7fffffff) return fail("sizes: got %lld blocks, expected fewer than 2^31", blocks);
  p.outer = s.outer;
  p.inner = s.inner;
  p.rows = plan.rows;
  p.outer_blocks = static_cast<u32>(plan.outer_blocks);
  p.inner_blocks = static_cast<u32>(plan.inner_blocks);
  p.factor = static_cast<float>(factor);
  p.wide_factor = factor;
  Launch launch = launch_of(p, static_cast<u32>(blocks), static_cast<u32>(plan.lanes));
  launch.block[1] = static_cast<u32>(plan.tall);
  name_kernel(launch, "gk::add_noise_%s<%s, %d>", kernel, type_name(dtype), static_cast<int>(plan.pack));
  return launcher->run(launcher, &launch);
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(add_noise, GK_ADD_NOISE_KERNELS)

extern "C" void gk_add_noise_blocks(gk::i64 samples, gk::i64 channels, gk::i64 pixels, gk::i64 last, gk::i64 wide,
                                    gk::i64 dtype, gk::i64* over_pixels, gk::i64* over_channels) {
  const gk::WalkPlan plan = gk::plan_of({samples, channels, pixels, last}, wide, dtype, true);
  *over_pixels = last ? plan.outer_blocks : plan.inner_blocks;
  *over_channels = last ? plan.inner_blocks : plan.outer_blocks;
}

GK_ENTRY(gk_add_noise_value, const void* x, const void* s, const void* m, const void* s2, const void* m2, void* y,
         gk::i64 s_step, gk::i64 s2_step, gk::i64 shared, gk::i64 shared2, gk::i64 samples, gk::i64 channels,
         gk::i64 pixels, gk::i64 last, gk::i64 wide, gk::i64 dtype, double factor) {
  const gk::Image image = {samples, channels, pixels, last};
  gk::AddNoiseParams p = {};
  p.x = x;
  p.out = y;
  gk::put_term(p, 0, image, s, s_step, m, shared);
  gk::put_term(p, 1, image, s2, s2_step, m2, shared2);
  return gk::run(launcher, p, image, wide, dtype, factor, "value");
}

GK_ENTRY(gk_add_noise_sums, const void* g, const void* s, const void* m, void* channel_sums, void* pixel_sums,
         gk::i64 s_step, gk::i64 shared, gk::i64 samples, gk::i64 channels, gk::i64 pixels, gk::i64 last, gk::i64 wide,
         gk::i64 dtype, double factor) {
  const gk::Image image = {samples, channels, pixels, last};
  if (!m) return gk::fail("m: got null, expected noise");
  gk::AddNoiseParams p = {};
  p.x = g;
  p.row_sums = last ? pixel_sums : channel_sums;
  p.column_sums = last ? channel_sums : pixel_sums;
  gk::put_term(p, 0, image, s, s_step, m, shared);
  return gk::run(launcher, p, image, wide, dtype, factor, "sums");
}
