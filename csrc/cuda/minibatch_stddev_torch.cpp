// minibatch_stddev on the GPU: torch tensors to entries.
#include <torch/library.h>

#include "device.h"
#include "minibatch_stddev_op.h"
#include "minibatch_stddev_params.h"

GK_DECLARE_RUNNER(minibatch_stddev);

namespace gk {
namespace {

using at::Tensor;

struct StddevOnGpu : StddevCall {
  i64 shape[6];

  StddevOnGpu(const Tensor& given, int64_t group_size, int64_t channels) : StddevCall(given, group_size, channels) {
    const i64 all[6] = {x.size(0), x.size(1), layout.pixels, layout.group, layout.channels, layout.x_run != 0};
    std::copy(all, all + 6, shape);
  }
  Tensor workspace(i64 numbers_a_lot) const {
    const auto acc = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    return at::empty({lots() * int64_t(numbers_a_lot)}, x.options().dtype(acc));
  }
  Tensor sums() const { return workspace(gk_minibatch_stddev_splits(lots(), layout.count)); }
};

Tensor minibatch_stddev_cuda(const Tensor& x, int64_t group_size, int64_t channels) {
  const StddevOnGpu c(x, group_size, channels);
  const Tensor y = c.empty_y();
  if (y.numel() == 0) return y;
  const Tensor sums = c.sums();
  const Call call("minibatch_stddev", GK_RUNNER(minibatch_stddev), c.x);
  call.check(gk_minibatch_stddev_value(call.pointer(c.x), call.pointer(y), call.pointer(sums), c.shape, dtype_code(x),
                                       call.launcher()));
  return y;
}

Tensor minibatch_stddev_backward_cuda(const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels) {
  const StddevOnGpu c(x, group_size, channels);
  const Tensor up = c.other(gy, "gy", true), gx = c.empty_x();
  if (gx.numel() == 0) return gx;
  const Tensor scales = c.workspace(1);
  const Call call("minibatch_stddev", GK_RUNNER(minibatch_stddev), c.x);
  call.check(gk_minibatch_stddev_backward(call.pointer(up), call.pointer(c.x), call.pointer(gx), call.pointer(scales),
                                          c.shape, dtype_code(x), call.launcher()));
  return gx;
}

std::tuple<Tensor, Tensor> minibatch_stddev_double_backward_cuda(const Tensor& v, const Tensor& gy, const Tensor& x,
                                                                 int64_t group_size, int64_t channels,
                                                                 std::array<bool, 2> wanted) {
  const StddevOnGpu c(x, group_size, channels);
  const Tensor up = c.other(gy, "gy", true), vc = c.other(v, "v", false);
  const Tensor ggy = c.empty_y(wanted[0]), gx = c.empty_x(wanted[1]);
  if (c.x.numel() == 0 || !(wanted[0] || wanted[1])) return {ggy, gx};
  const Tensor sums = wanted[0] ? c.sums() : Tensor(), scales = c.workspace(1);
  const Call call("minibatch_stddev", GK_RUNNER(minibatch_stddev), c.x);
  call.check(gk_minibatch_stddev_double_backward(call.pointer(vc), call.pointer(up), call.pointer(c.x),
                                                 wanted[0] ? call.pointer(ggy) : nullptr,
                                                 wanted[1] ? call.pointer(gx) : nullptr, call.pointer(sums),
                                                 call.pointer(scales), c.shape, dtype_code(x), call.launcher()));
  return {ggy, gx};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("minibatch_stddev", &minibatch_stddev_cuda);
  m.impl("minibatch_stddev_backward", &minibatch_stddev_backward_cuda);
  m.impl("minibatch_stddev_double_backward", &minibatch_stddev_double_backward_cuda);
}

}  // namespace gk
