// bias_act on the GPU: torch tensors to entries.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "bias_act_op.h"
#include "bias_act_params.h"
#include "device.h"

GK_DECLARE_RUNNER(bias_act);

namespace gk {
namespace {

using at::Tensor;
using std::optional;

Tensor dense(const optional<Tensor>& t, at::MemoryFormat format) { return t ? t->contiguous(format) : Tensor(); }
Tensor dense(const optional<Tensor>& t) { return dense(t, at::MemoryFormat::Contiguous); }

i64 inner_of(const Tensor& x, int64_t dim, at::MemoryFormat format) {
  i64 inner = 1;
  if (format == at::MemoryFormat::Contiguous)
    for (int64_t i = dim + 1; i < x.dim(); ++i) inner *= x.size(i);
  return inner;
}

Tensor bias_act_cuda(const Tensor& x, const optional<Tensor>& bias, int64_t dim, c10::string_view act, double alpha,
                     double gain, double clamp) {
  check_bias_act(x, bias, "bias", dim);
  const auto format = format_of(x, dim);
  const Tensor xc = x.contiguous(format), b = dense(bias);
  const Tensor out = at::empty_like(xc, xc.options(), format);
  const Call call("bias_act", GK_RUNNER(bias_act), xc);
  call.check(gk_bias_act_value(call.pointer(xc), call.pointer(b), call.pointer(out), xc.numel(), xc.size(dim),
                               inner_of(xc, dim, format), dtype_code(xc), static_cast<i64>(parse_act(act)), alpha, gain,
                               clamp, call.launcher()));
  return out;
}

std::tuple<Tensor, Tensor> bias_act_derivative_cuda(const Tensor& g, const optional<Tensor>& g_bias,
                                                    const optional<Tensor>& h, const optional<Tensor>& ref,
                                                    const optional<Tensor>& bias, bool ref_is_output, int64_t order,
                                                    int64_t dim, c10::string_view act, double alpha, double gain,
                                                    double clamp, bool want_full, bool want_bias) {
  check_bias_act(g, bias, "bias", dim);
  check_bias_act(g, g_bias, "g_bias", dim);
  check_same(h, "h", g);
  check_same(ref, "ref", g);
  const auto format = format_of(ref ? *ref : g, dim);
  const Tensor gc = g.contiguous(format), hc = dense(h, format), rc = dense(ref, format), b = dense(bias),
               gb = dense(g_bias);
  const i64 numel = gc.numel(), channels = gc.size(dim), inner = inner_of(gc, dim, format);
  Tensor out, reduced, workspace;
  if (want_full) out = at::empty_like(gc, gc.options(), format);
  if (want_bias) reduced = numel ? at::empty({channels}, g.options()) : at::zeros({channels}, g.options());
  const i64 splits = want_bias ? gk_bias_act_splits(numel, channels, inner) : 1;
  if (splits > 1) {
    const auto acc = g.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    workspace = at::empty({splits, channels}, g.options().dtype(acc));
  }
  if (numel && (want_full || want_bias)) {
    const Call call("bias_act", GK_RUNNER(bias_act), gc);
    call.check(gk_bias_act_derivative(
        call.pointer(gc), call.pointer(gb), call.pointer(hc), call.pointer(rc), call.pointer(b), call.pointer(out),
        call.pointer(reduced), call.pointer(workspace), numel, channels, inner, dtype_code(gc),
        static_cast<i64>(parse_act(act)), order, ref_is_output, alpha, gain, clamp, call.launcher()));
  }
  const auto none = [&] { return at::empty({0}, g.options()); };
  return {want_full ? out : none(), want_bias ? reduced : none()};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("bias_act", &bias_act_cuda);
  m.impl("bias_act_derivative", &bias_act_derivative_cuda);
}

}  // namespace gk
