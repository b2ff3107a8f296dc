// maxout's entry: geometry and instantiation of its launch.
#include "maxout_params.h"

GK_EXPORT_KERNELS(maxout, GK_MAXOUT_KERNELS)

GK_ENTRY(gk_maxout, const void* in, void* out, void* index, gk::i64 rows, gk::i64 pieces, gk::i64 inner, gk::i64 dtype,
         gk::i64 order) {
  using namespace gk;
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (order < 0 || order > 2) return fail("order: got %lld, expected 0 to 2", order);
  if (rows < 1 || inner < 1 || pieces < 1)
    return fail("sizes: got %lld, %lld, %lld, expected 1 or more", rows, pieces, inner);
  if (order != kMaxoutValue && !index) return fail("index: got null, expected it for order %lld", order);
  MaxoutParams p = {};
  p.in = in;
  p.out = out;
  p.index = index;
  p.results = rows * inner;
  p.pieces = pieces;
  p.inner = Divider::of(inner);
  p.wide_index = pieces > 256;
  const i64 pack = 16 / type_bytes(dtype);
  const bool wide = aligned(in, 16) && aligned(out, 16) && aligned(index, 8);
  const bool near = inner == 1 && (pieces == 2 || pieces == 4) && pack % pieces == 0;
  i64 a_thread = near ? pack / pieces : pack;
  if (!wide || (near ? p.results : inner) % a_thread) a_thread = 1;
  const bool as_near = near && a_thread == pack / pieces && wide;
  const i64 blocks = ceil_div(p.results, a_thread * kMaxoutThreads);
  if (blocks > 0x7fffffff) return fail("sizes: got %lld blocks, expected fewer than 2^31", blocks);
  Launch launch = launch_of(p, static_cast<u32>(blocks), kMaxoutThreads);
  name_kernel(launch, "gk::maxout_%s<%s, %d, %d>", as_near ? "near" : "apart", type_name(dtype),
              static_cast<int>(order), static_cast<int>(as_near ? pieces : a_thread));
  return launcher->run(launcher, &launch);
}
