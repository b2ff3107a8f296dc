// Sums over samples, and scalings of them, on the GPU: torch tensors to entries.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <array>

#include "device.h"
#include "per_sample.h"
#include "per_sample_params.h"

GK_DECLARE_RUNNER(per_sample);

namespace gk {
namespace {

using at::Tensor;

// Both dense in one layout; b undefined for squares; over undefined or the norms that divide.
Tensor summed(const Tensor& a, const Tensor& b, const Tensor& over, double factor, bool root) {
  const i64 samples = a.size(0), length = samples ? a.numel() / samples : 0;
  Tensor out = at::empty({samples}, a.options().dtype(sums_dtype(a))), workspace;
  if (!samples) return out;
  const i64 splits = gk_per_sample_splits(samples, length);
  if (splits > 1)
    workspace = at::empty({samples, splits}, b.defined() ? out.options().dtype(at::kDouble) : out.options());
  const Call call("per_sample", GK_RUNNER(per_sample), a);
  call.check(gk_per_sample_sum(call.pointer(a), call.pointer(b), call.pointer(over), call.pointer(out),
                               call.pointer(workspace), samples, length, dtype_code(a), root, factor, call.launcher()));
  return out;
}

Tensor combined(const Tensor& x, const Tensor& v, const Tensor& f, const Tensor& norm, const Tensor& along,
                double factor) {
  Tensor out = at::empty_like(x);
  if (!x.numel()) return out;
  const Call call("per_sample", GK_RUNNER(per_sample), x);
  call.check(gk_per_sample_combine(call.pointer(x), call.pointer(v), call.pointer(f), call.pointer(norm),
                                   call.pointer(along), call.pointer(out), x.size(0), x.numel() / x.size(0),
                                   dtype_code(x), factor, call.launcher()));
  return out;
}

Tensor dense(const Tensor& t, const Tensor& like) { return t.contiguous(sample_format(like)); }

Tensor sum_squares_cuda(const Tensor& x) {
  check_samples("sum_squares_per_sample", x);
  return summed(dense(x, x), Tensor(), Tensor(), 1, false);
}

Tensor norm_cuda(const Tensor& x) {
  check_samples("norm_per_sample", x);
  return summed(dense(x, x), Tensor(), Tensor(), 1, true);
}

Tensor dot_cuda(const Tensor& a, const Tensor& b, double factor) {
  check_samples("dot_per_sample", a);
  check_alike("dot_per_sample", "b", b, a);
  return summed(dense(a, a), dense(b, a), Tensor(), factor, false);
}

Tensor scale_cuda(const Tensor& x, const Tensor& f, double factor) {
  check_samples("scale_per_sample", x);
  check_factors("scale_per_sample", "f", f, x);
  return combined(dense(x, x), Tensor(), f.contiguous(), Tensor(), Tensor(), factor);
}

Tensor norm_backward_cuda(const Tensor& g, const Tensor& x, const Tensor& norm) {
  check_samples("norm_per_sample_backward", x);
  check_factors("norm_per_sample_backward", "g", g, x);
  check_factors("norm_per_sample_backward", "norm", norm, x);
  return combined(dense(x, x), Tensor(), g.contiguous(), norm.contiguous(), Tensor(), 1);
}

std::tuple<Tensor, Tensor> norm_double_backward_cuda(const Tensor& v, const Tensor& g, const Tensor& x,
                                                     const Tensor& norm, std::array<bool, 2> wanted) {
  check_samples("norm_per_sample_double_backward", x);
  check_alike("norm_per_sample_double_backward", "v", v, x);
  check_factors("norm_per_sample_double_backward", "g", g, x);
  check_factors("norm_per_sample_double_backward", "norm", norm, x);
  const Tensor xc = dense(x, x), vc = dense(v, x), r = norm.contiguous();
  const Tensor along = summed(vc, xc, r, 1, false);
  const Tensor whole = wanted[1] ? combined(xc, vc, g.contiguous(), r, along, 1) : at::empty({0}, x.options());
  return {wanted[0] ? along : at::empty({0}, g.options()), whole};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("sum_squares_per_sample", &sum_squares_cuda);
  m.impl("norm_per_sample", &norm_cuda);
  m.impl("dot_per_sample", &dot_cuda);
  m.impl("scale_per_sample", &scale_cuda);
  m.impl("norm_per_sample_backward", &norm_backward_cuda);
  m.impl("norm_per_sample_double_backward", &norm_double_backward_cuda);
}

}  // namespace gk
