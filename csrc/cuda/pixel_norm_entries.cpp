// pixel_norm's entry: geometry and instantiation of its launch.
#include <initializer_list>

#include "pixel_norm_params.h"

GK_EXPORT_KERNELS(pixel_norm, GK_PIXEL_NORM_KERNELS)

GK_ENTRY(gk_pixel_norm, const void* x, const void* g, const void* v, void* for_x, void* for_g, gk::i64 outer,
         gk::i64 count, gk::i64 inner, gk::i64 dtype, gk::i64 order, double eps) {
  using namespace gk;
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  if (order < 0 || order > 2) return fail("order: got %lld, expected 0 to 2", order);
  if (outer < 1 || count < 1 || inner < 1)
    return fail("sizes: got %lld, %lld, %lld, expected 1 or more", outer, count, inner);
  if ((order > 0 && !g) || (order > 1 && !v)) return fail("g or v: got null, expected it for order %lld", order);
  PixelNormParams p = {};
  p.x = x;
  p.g = g;
  p.v = v;
  p.for_x = for_x;
  p.for_g = for_g;
  p.vectors = outer * inner;
  p.count = count;
  p.inner = Divider::of(inner);
  p.eps = static_cast<float>(eps);
  p.wide_eps = eps;
  i64 pack = 16 / type_bytes(dtype);
  if ((inner == 1 ? count : inner) % pack) pack = 1;
  for (const void* pointer : {x, g, v, static_cast<const void*>(for_x), static_cast<const void*>(for_g)})
    if (!aligned(pointer, 16)) pack = 1;
  const i64 together = inner == 1 ? kPixelNormRows : kPixelNormLanes * pack;
  Launch launch = launch_of(p, static_cast<u32>(ceil_div(p.vectors, together)), kPixelNormLanes);
  launch.block[1] = kPixelNormRows;
  name_kernel(launch, "gk::pixel_norm_%s<%s, %d, %d>", inner == 1 ? "rows" : "columns", type_name(dtype),
              static_cast<int>(order), static_cast<int>(pack));
  return launcher->run(launcher, &launch);
}
