// grid_sample2d on the GPU: torch tensors to the entry.
#include <ATen/Context.h>
#include <torch/library.h>

#include "device.h"
#include "grid_sample2d_op.h"
#include "grid_sample2d_params.h"

GK_DECLARE_RUNNER(grid_sample2d);

namespace gk {
namespace {

using at::Tensor;

void launch(const SampleCall& c, i64 what, int order, const Tensor& x, const Tensor& y, const Tensor& sums) {
  const i64 shape[8] = {c.n, c.channels, c.height, c.width, c.out_height, c.out_width, c.last, c.affine};
  const i64 settings[4] = {c.settings.mode, c.settings.padding, c.settings.align, order};
  const Call call("grid_sample2d", GK_RUNNER(grid_sample2d), y);
  call.check(gk_grid_sample2d(what, call.pointer(x), call.pointer(c.grid), call.pointer(c.along), call.pointer(y),
                              call.pointer(sums), shape, settings, dtype_code(y), dtype_code(c.grid), call.launcher()));
}

Tensor grid_sample2d_cuda(const Tensor& x_, const Tensor& grid, const std::optional<Tensor>& along,
                          at::IntArrayRef size, int64_t mode, int64_t padding, bool align) {
  TORCH_CHECK_VALUE(x_.dim() == 4, "grid_sample2d: x has shape ", x_.sizes(), ", expected [N, C, H, W]");
  const SampleCall c(x_, grid, along, x_.sizes().slice(2), size, mode, padding, align);
  const Tensor x = x_.contiguous(c.format), y = c.empty_y(x);
  if (y.numel() > 0) launch(c, 0, c.order, x, y, Tensor());
  return y;
}

Tensor grid_sample2d_adjoint_cuda(const Tensor& gy_, const Tensor& grid, const std::optional<Tensor>& along,
                                  at::IntArrayRef size, int64_t mode, int64_t padding, bool align) {
  if (at::globalContext().deterministicAlgorithms()) {
    const char* text =
        "grid_sample2d: on GPUs the gradient in x is summed by atomics, whose order is not deterministic";
    TORCH_CHECK(at::globalContext().deterministicAlgorithmsWarnOnly(), text,
                "; you asked for torch.use_deterministic_algorithms(True): sample with "
                "gankernels.backend('reference'), whose sums follow it, or pass it warn_only=True");
    TORCH_WARN(text);
  }
  TORCH_CHECK_VALUE(gy_.dim() == 4, "grid_sample2d: gy has shape ", gy_.sizes(), ", expected [N, C, OH, OW]");
  const SampleCall c(gy_, grid, along, size, gy_.sizes().slice(2), mode, padding, align);
  const Tensor gy = gy_.contiguous(c.format);
  const Tensor gx = at::empty({c.n, c.channels, c.height, c.width}, gy.options().dtype(c.acc), c.format).zero_();
  if (gy.numel() > 0) launch(c, 1, c.order, Tensor(), gy, gx);
  return gx.to(gy_.scalar_type());
}

Tensor grid_sample2d_products_cuda(const Tensor& gy_, const Tensor& x_, const Tensor& grid, bool mixed, int64_t mode,
                                   int64_t padding, bool align) {
  TORCH_CHECK_VALUE(gy_.dim() == 4 && x_.dim() == 4, "grid_sample2d: gy has shape ", gy_.sizes(), " and x ", x_.sizes(),
                    ", expected 4 dimensions");
  const SampleCall c(x_, grid, {}, x_.sizes().slice(2), gy_.sizes().slice(2), mode, padding, align);
  const Tensor x = c.as_x(x_, x_), gy = c.as_y(gy_, x_);
  const Tensor out = at::empty({c.n, c.out_height, c.out_width, mixed ? 1 : 2}, x.options().dtype(c.acc));
  if (out.numel() > 0) launch(c, 2, mixed ? 2 : 1, x, gy, out);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("grid_sample2d", &grid_sample2d_cuda);
  m.impl("grid_sample2d_adjoint", &grid_sample2d_adjoint_cuda);
  m.impl("grid_sample2d_products", &grid_sample2d_products_cuda);
}

}  // namespace gk
