// The example's binding: the CUDA kernel of a torch operator, thin.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "device.h"
#include "scaled_add_params.h"

GK_DECLARE_RUNNER(scaled_add);

namespace {

at::Tensor scaled_add(const at::Tensor& x, const at::Tensor& y, double scale) {
  TORCH_CHECK(x.sizes() == y.sizes(), "y: got ", y.sizes(), ", expected x's ", x.sizes());
  const at::Tensor a = x.contiguous(), b = y.contiguous();
  at::Tensor out = at::empty_like(a);
  gk::Call call("scaled_add", GK_RUNNER(scaled_add), a);
  call.check(gk_scaled_add_forward(call.pointer(a), call.pointer(b), call.pointer(out), a.numel(), gk::dtype_code(a),
                                   scale, call.launcher()));
  return out;
}

at::Tensor row_sum(const at::Tensor& x) {
  at::Tensor out = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  gk::Call call("scaled_add", GK_RUNNER(scaled_add), x);
  call.check(gk_scaled_add_row_sum(call.pointer(x), call.pointer(out), x.size(0), x.size(1), x.stride(0),
                                   gk::dtype_code(x), call.launcher()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("example_scaled_add", &scaled_add);
  m.impl("example_row_sum", &row_sum);
}
