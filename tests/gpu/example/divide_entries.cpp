#include "divide_params.h"

GK_EXPORT_KERNELS(divide, GK_DIVIDE_KERNELS)

GK_ENTRY(gk_divide, const void *n, void *quotient, void *remainder,
         gk::i64 size, gk::i64 by) {
  const gk::DivideParams p = {
      static_cast<const gk::i64 *>(n), static_cast<gk::i64 *>(quotient),
      static_cast<gk::i64 *>(remainder), size, gk::Divider::of(by)};
  gk::Launch launch =
      gk::launch_of(p, static_cast<gk::u32>(gk::ceil_div(size, 256)), 256);
  gk::name_kernel(launch, "gk::divide<256>");
  return launcher->run(launcher, &launch);
}
