// batch_norm_act on the GPU: torch tensors to entries.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zero.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>

#include "batch_norm_act.h"
#include "batch_norm_act_op.h"
#include "batch_norm_act_params.h"
#include "device.h"

GK_DECLARE_RUNNER(batch_norm_act);

namespace gk {
namespace {

using at::Tensor;
using std::optional;

// A tensor in the order that its kernel takes it, and its sizes there.
struct View {
  at::MemoryFormat format;
  Tensor x;
  i64 rows, channels, inner;

  explicit View(const Tensor& from) : format(from.suggest_memory_format()), x(from.contiguous(format)) {
    channels = x.size(1);
    rows = channels ? x.numel() / channels : 0;
    inner = 1;
    if (format == at::MemoryFormat::Contiguous)
      for (int64_t i = 2; i < x.dim(); ++i) inner *= x.size(i);
  }
  Tensor dense(const optional<Tensor>& t) const { return t ? t->contiguous(format) : Tensor(); }
  at::ScalarType exact() const { return at::toOpMathType(x.scalar_type()); }
  Tensor channel_numbers(at::ScalarType dtype) const { return at::empty({x.size(1)}, x.options().dtype(dtype)); }
  Tensor sums(int64_t terms) const {
    return at::empty({terms, gk_batch_norm_act_splits(rows, channels, inner, dtype_code(x)), channels},
                     x.options().dtype(exact()));
  }
};

// Tensors of numbers a channel, dense, of the dtype of x or of sums; `narrow` has a bit for each of the former.
template <size_t count>
struct Numbers {
  std::array<Tensor, count> held;
  i64 narrow = 0;

  Numbers(const View& view, std::array<optional<Tensor>, count> from) {
    const at::ScalarType own = view.x.scalar_type();
    for (size_t i = 0; i < count; ++i) {
      if (!from[i] || !from[i]->defined()) continue;
      const bool is_own = from[i]->scalar_type() == own && own != view.exact();
      held[i] = from[i]->to(is_own ? own : view.exact()).contiguous();
      narrow |= i64(is_own) << i;
    }
  }
};

// [channels] for the gradient of `like`, in a dtype that the kernels write; undefined where it is not wanted.
Tensor parameter_grad(bool wanted, const optional<Tensor>& like, const View& view) {
  if (!wanted) return Tensor();
  const bool is_own = like && like->scalar_type() == view.x.scalar_type();
  const Tensor grad = view.channel_numbers(is_own ? like->scalar_type() : view.exact());
  return view.x.numel() ? grad : grad.zero_();
}
Tensor or_none(const Tensor& t, const optional<Tensor>& like, const View& view) {
  const auto dtype = like ? like->scalar_type() : view.exact();
  return t.defined() ? t.to(dtype) : at::empty({0}, view.x.options().dtype(dtype));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_cuda(
    const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const optional<Tensor>& running_mean,
    const optional<Tensor>& running_var, bool training, double eps, c10::string_view act, double alpha, double gain) {
  check_forward(x, weight, bias, running_mean, running_var, training);
  const View view(x);
  const Tensor y = at::empty_like(view.x);
  Tensor mean = view.channel_numbers(view.exact()), invstd = at::empty_like(mean), var = at::empty_like(mean);
  if (!x.numel()) return {y, mean.zero_(), invstd.zero_(), var.zero_()};
  const Numbers<4> n(view, {weight, bias, running_mean, running_var});
  const Tensor sums = training ? view.sums(2) : Tensor();
  const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
  call.check(gk_batch_norm_act_forward(call.pointer(view.x), call.pointer(n.held[0]), call.pointer(n.held[1]),
                                       call.pointer(n.held[2]), call.pointer(n.held[3]), call.pointer(y),
                                       call.pointer(mean), call.pointer(invstd), call.pointer(var), call.pointer(sums),
                                       view.rows, view.channels, view.inner, dtype_code(view.x), n.narrow,
                                       static_cast<i64>(parse_act(act)), eps, alpha, gain, call.launcher()));
  return {y, mean, invstd, var};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cuda(const Tensor& gy, const Tensor& x,
                                                                const optional<Tensor>& weight,
                                                                const optional<Tensor>& bias, const Tensor& mean,
                                                                const Tensor& r, bool training, c10::string_view act,
                                                                double alpha, double gain, std::array<bool, 3> wanted) {
  check_backward(gy, x, weight, bias, mean, r);
  const View view(x);
  const Tensor g = view.dense(gy), gx = wanted[0] ? at::empty_like(view.x) : Tensor();
  const Tensor gw = parameter_grad(wanted[1], weight, view), gb = parameter_grad(wanted[2], bias, view);
  if (x.numel() && (wanted[0] || wanted[1] || wanted[2])) {
    const Numbers<6> n(view, {weight, bias, mean, r, gw, gb});
    const Tensor sums = training || wanted[1] || wanted[2] ? view.sums(2) : Tensor();
    const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
    call.check(gk_batch_norm_act_backward(
        call.pointer(g), call.pointer(view.x), call.pointer(n.held[0]), call.pointer(n.held[1]),
        call.pointer(n.held[2]), call.pointer(n.held[3]), call.pointer(gx), call.pointer(n.held[4]),
        call.pointer(n.held[5]), call.pointer(sums), view.rows, view.channels, view.inner, dtype_code(view.x), n.narrow,
        training, static_cast<i64>(parse_act(act)), alpha, gain, call.launcher()));
  }
  return {wanted[0] ? gx : at::empty({0}, x.options()), or_none(gw, weight, view), or_none(gb, bias, view)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_double_backward_cuda(
    const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
    const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean, const Tensor& r, bool training,
    c10::string_view act, double alpha, double gain, std::array<bool, 4> wanted) {
  check_double_backward(v, p, q, gy, x, weight, bias, mean, r);
  const View view(x);
  const Tensor g = view.dense(gy), vc = view.dense(v);
  const Tensor gg = wanted[0] ? at::empty_like(view.x) : Tensor(), gx = wanted[1] ? at::empty_like(view.x) : Tensor();
  const Tensor gw = parameter_grad(wanted[2], weight, view), gb = parameter_grad(wanted[3], bias, view);
  if (x.numel() && (wanted[0] || wanted[1] || wanted[2] || wanted[3])) {
    const Numbers<8> n(view, {p, q, weight, bias, mean, r, gw, gb});
    const Tensor sums = training || wanted[2] || wanted[3] ? view.sums(kNormSecondSums) : Tensor();
    const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
    call.check(gk_batch_norm_act_second(
        call.pointer(vc), call.pointer(n.held[0]), call.pointer(n.held[1]), call.pointer(g), call.pointer(view.x),
        call.pointer(n.held[2]), call.pointer(n.held[3]), call.pointer(n.held[4]), call.pointer(n.held[5]),
        call.pointer(gg), call.pointer(gx), call.pointer(n.held[6]), call.pointer(n.held[7]), call.pointer(sums),
        view.rows, view.channels, view.inner, dtype_code(view.x), n.narrow, training, static_cast<i64>(parse_act(act)),
        alpha, gain, call.launcher()));
  }
  const auto none = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, x.options()); };
  return {none(gg), none(gx), or_none(gw, weight, view), or_none(gb, bias, view)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("batch_norm_act", &batch_norm_act_cuda);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward_cuda);
  m.impl("batch_norm_act_double_backward", &batch_norm_act_double_backward_cuda);
}

}  // namespace gk
