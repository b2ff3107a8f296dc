// The example's entries: plain C++, the same object code in the extension and in the tests.
#include "scaled_add_params.h"

GK_EXPORT_KERNELS(scaled_add, GK_SCALED_ADD_KERNELS)

GK_ENTRY(gk_scaled_add_forward, const void* x, const void* y, void* out, gk::i64 size, gk::i64 dtype, double scale) {
  const char* type = gk::type_name(dtype);
  if (!type || dtype == gk::kFloat64)
    return gk::fail("dtype: got code %lld, expected float32, float16 or bfloat16", dtype);
  const gk::i64 wide = 16 / gk::type_bytes(dtype);
  const bool vector = size % wide == 0 && gk::aligned(x, 16) && gk::aligned(y, 16) && gk::aligned(out, 16);
  const gk::i64 width = vector ? wide : 1;
  const gk::ScaledAddParams params = {x, y, out, size, static_cast<float>(scale)};
  gk::Launch launch = gk::launch_of(params, static_cast<gk::u32>(gk::ceil_div(size, 256 * width)), 256);
  gk::name_kernel(launch, "gk::scaled_add<%s, %d>", type, static_cast<int>(width));
  return launcher->run(launcher, &launch);
}

GK_ENTRY(gk_scaled_add_row_sum, const void* x, void* out, gk::i64 rows, gk::i64 columns, gk::i64 stride,
         gk::i64 dtype) {
  const char* type = gk::type_name(dtype);
  if (!type || dtype == gk::kFloat64)
    return gk::fail("dtype: got code %lld, expected float32, float16 or bfloat16", dtype);
  const gk::RowSumParams params = {x, static_cast<float*>(out), columns, stride};
  gk::Launch launch = gk::launch_of(params, static_cast<gk::u32>(rows), 256);
  gk::name_kernel(launch, "gk::row_sum<%s, 256>", type);
  return launcher->run(launcher, &launch);
}
