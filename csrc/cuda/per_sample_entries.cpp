// The sums over samples: geometry and instantiation of each launch.
#include "per_sample_params.h"

namespace gk {
namespace {

constexpr i64 kThreads = kPerSampleThreads;
constexpr i64 kShare = 16384;  // elements that pay for a block of their own in a sum
constexpr i64 kBlocks = 2048;  // blocks that fill a large GPU
constexpr i64 kMost = 0x7FFFFFFF;

const char* check(i64 samples, i64 length, i64 dtype) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (samples < 0 || length < 0)
    return fail("x: got %lld samples of %lld elements, expected 0 or more", samples, length);
  return nullptr;
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(per_sample, GK_PER_SAMPLE_KERNELS)

extern "C" gk::i64 gk_per_sample_splits(gk::i64 samples, gk::i64 length) {
  using namespace gk;
  if (!samples) return 1;
  const i64 useful = ceil_div(length, kShare), room = ceil_div(kBlocks, samples);
  return useful < 1 ? 1 : useful < room ? useful : room;
}

GK_ENTRY(gk_per_sample_sum, const void* a, const void* b, const void* over, void* out, void* workspace, gk::i64 samples,
         gk::i64 length, gk::i64 dtype, gk::i64 root, double factor) {
  using namespace gk;
  if (const char* error = check(samples, length, dtype)) return error;
  const i64 pack = 16 / type_bytes(dtype);
  PerSampleSumParams p = {};
  p.a = a;
  p.b = b;
  p.over = over;
  p.out = out;
  p.parts = workspace;
  p.samples = samples;
  p.length = length;
  const i64 splits = gk_per_sample_splits(samples, length);
  p.splits = Divider::of(splits);
  p.share = ceil_div(ceil_div(length, splits), pack) * pack;
  p.root = static_cast<i32>(root);
  p.vector = length % pack == 0 && aligned(a, 16) && aligned(b, 16);
  p.factor = factor;
  if (splits > 1 && !workspace) return fail("workspace: got null, expected room for %lld splits", splits);
  if (samples * splits > kMost) return fail("x: got %lld samples, expected 2^31 - 1 or fewer", samples);
  Launch launch = launch_of(p, static_cast<u32>(samples * splits), kPerSampleThreads);
  const char* squares = b ? "false" : "true";
  name_kernel(launch, "gk::per_sample_sums<%s, %s>", type_name(dtype), squares);
  if (const char* error = launcher->run(launcher, &launch)) return error;
  if (splits == 1) return nullptr;
  launch = launch_of(p, static_cast<u32>(samples), kPerSampleThreads);
  name_kernel(launch, "gk::per_sample_parts<%s, %s>", type_name(dtype), squares);
  return launcher->run(launcher, &launch);
}

GK_ENTRY(gk_per_sample_combine, const void* x, const void* v, const void* f, const void* norm, const void* along,
         void* out, gk::i64 samples, gk::i64 length, gk::i64 dtype, double factor) {
  using namespace gk;
  if (const char* error = check(samples, length, dtype)) return error;
  if (v && (!norm || !along)) return fail("v: got a tensor, expected norm and along with it");
  const i64 pack = 16 / type_bytes(dtype);
  PerSampleCombineParams p = {};
  p.x = x;
  p.v = v;
  p.f = f;
  p.norm = norm;
  p.along = along;
  p.out = out;
  p.length = length;
  const i64 tiles = ceil_div(length, kThreads * pack);
  p.tiles = Divider::of(tiles);
  const bool vector = length % pack == 0 && aligned(x, 16) && aligned(v, 16) && aligned(out, 16);
  p.factor = factor;
  if (samples && tiles > kMost / samples)
    return fail("x: got %lld samples of %lld elements, expected fewer", samples, length);
  Launch launch = launch_of(p, static_cast<u32>(samples * tiles), kPerSampleThreads);
  name_kernel(launch, "gk::per_sample_combine<%s, %s, %s>", type_name(dtype), vector ? "true" : "false",
              v ? "true" : "false");
  return launcher->run(launcher, &launch);
}
