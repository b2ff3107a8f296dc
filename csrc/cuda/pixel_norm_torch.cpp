// pixel_norm on the GPU: torch tensors to the entry.
#include <torch/library.h>

#include "device.h"
#include "pixel_norm_op.h"
#include "pixel_norm_params.h"

GK_DECLARE_RUNNER(pixel_norm);

namespace gk {
namespace {

using at::Tensor;

// Undefined results are not wanted.
void run(const PixelNormCall& c, i64 order, const Tensor& g, const Tensor& v, const Tensor& for_x,
         const Tensor& for_g) {
  if (c.x.numel() == 0 || !(for_x.defined() || for_g.defined())) return;
  const Call call("pixel_norm", GK_RUNNER(pixel_norm), c.x);
  call.check(gk_pixel_norm(call.pointer(c.x), call.pointer(g), call.pointer(v), call.pointer(for_x),
                           call.pointer(for_g), c.outer, c.count, c.inner, dtype_code(c.x), order, c.eps,
                           call.launcher()));
}

Tensor pixel_norm_cuda(const Tensor& x, int64_t dim, double eps) {
  const PixelNormCall c(x, dim, eps);
  Tensor y = c.empty();
  run(c, 0, {}, {}, y, {});
  return y;
}

Tensor pixel_norm_backward_cuda(const Tensor& g, const Tensor& x, int64_t dim, double eps) {
  const PixelNormCall c(x, dim, eps);
  Tensor gx = c.empty();
  run(c, 1, c.other(g, "g"), {}, gx, {});
  return gx;
}

std::tuple<Tensor, Tensor> pixel_norm_double_backward_cuda(const Tensor& v, const Tensor& g, const Tensor& x,
                                                           int64_t dim, double eps, std::array<bool, 2> wanted) {
  const PixelNormCall c(x, dim, eps);
  Tensor for_g = c.empty(wanted[0]), for_x = c.empty(wanted[1]);
  run(c, 2, c.other(g, "g"), c.other(v, "v"), wanted[1] ? for_x : Tensor(), wanted[0] ? for_g : Tensor());
  return {for_g, for_x};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("pixel_norm", &pixel_norm_cuda);
  m.impl("pixel_norm_backward", &pixel_norm_backward_cuda);
  m.impl("pixel_norm_double_backward", &pixel_norm_double_backward_cuda);
}

}  // namespace gk
