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
  NormKind kind;
  at::MemoryFormat format;
  Tensor x;
  i64 groups, rows, channels, inner;

  View(const Tensor& from, const NormKind& kind)
      : kind(kind), format(from.suggest_memory_format()), x(from.contiguous(format)) {
    const bool dense = format == at::MemoryFormat::Contiguous;
    const i64 n = x.size(0), spread = kind.instance && dense ? n : 1;  // a sample's channels as so many more
    channels = x.size(1) * spread;
    groups = kind.cells() && spread == 1 && n ? n : 1;
    rows = channels ? x.numel() / (channels * groups) : 0;
    inner = 1;
    if (dense)
      for (int64_t i = 2; i < x.dim(); ++i) inner *= x.size(i);
  }
  bool pixels() const { return kind.affine == NormAffine::element; }
  i64 cells() const {
    if (pixels()) return kNormPixels;
    return kind.instance ? kNormInstance : kind.cells() ? kNormShared : kNormOwn;
  }
  Tensor dense(const optional<Tensor>& t) const { return t ? t->contiguous(format) : Tensor(); }
  at::ScalarType exact() const { return at::toOpMathType(x.scalar_type()); }
  Tensor numbers(bool sets, at::ScalarType dtype) const {
    return at::empty(sets ? kind.sets(x) : kind.numbers(x), x.options().dtype(dtype));
  }
  // For the moments of sets, or for other terms of cells.
  Tensor sums(int64_t terms, bool moments = false) const {
    const i64 g = moments && cells() == kNormShared ? 1 : groups;
    return at::empty(
        {terms, g, gk_batch_norm_act_splits(g, rows * groups / g, channels, inner, dtype_code(x)), channels},
        x.options().dtype(exact()));
  }
  Tensor totals() const {
    return cells() == kNormShared ? at::empty({5, channels}, x.options().dtype(exact())) : Tensor();
  }
};

// Tensors of numbers, dense, of the dtype of x or of sums; `narrow` has a bit for each of the former.
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

// For the gradient of `like`, in a dtype that the kernels write; undefined where it is not wanted.
Tensor parameter_grad(bool wanted, const optional<Tensor>& like, const View& view) {
  if (!wanted) return Tensor();
  if (view.pixels()) return at::empty_like(view.x);
  const bool is_own = like && like->scalar_type() == view.x.scalar_type();
  const Tensor grad = view.numbers(false, is_own ? like->scalar_type() : view.exact());
  return view.x.numel() ? grad : grad.zero_();
}
Tensor or_none(const Tensor& t, const optional<Tensor>& like, const View& view) {
  const auto dtype = like ? like->scalar_type() : view.exact();
  return t.defined() ? t.to(dtype) : at::empty({0}, view.x.options().dtype(dtype));
}

// y (undefined unless wanted), mean, 1 / deviation and unbiased variance.
std::array<Tensor, 4> forward(const View& view, const optional<Tensor>& weight, const optional<Tensor>& bias,
                              const optional<Tensor>& running_mean, const optional<Tensor>& running_var, bool training,
                              double eps, c10::string_view act, double alpha, double gain, bool wants_value = true) {
  const Tensor y = wants_value ? at::empty_like(view.x) : Tensor();
  Tensor mean = view.numbers(true, view.exact()), invstd = at::empty_like(mean), var = at::empty_like(mean);
  if (!view.x.numel()) return {y, mean.zero_(), invstd.zero_(), var.zero_()};
  const optional<Tensor> none;
  const bool pixels = view.pixels();
  const Numbers<4> n(view, {pixels ? none : weight, pixels ? none : bias, running_mean, running_var});
  const Tensor w = pixels ? view.dense(weight) : n.held[0], b = pixels ? view.dense(bias) : n.held[1];
  const Tensor sums = training ? view.sums(2, true) : Tensor();
  const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
  call.check(gk_batch_norm_act_forward(call.pointer(view.x), call.pointer(w), call.pointer(b), call.pointer(n.held[2]),
                                       call.pointer(n.held[3]), call.pointer(y), call.pointer(mean),
                                       call.pointer(invstd), call.pointer(var), call.pointer(sums), view.groups,
                                       view.cells(), view.rows, view.channels, view.inner, dtype_code(view.x), n.narrow,
                                       static_cast<i64>(parse_act(act)), eps, alpha, gain, call.launcher()));
  return {y, mean, invstd, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_cuda(
    const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const optional<Tensor>& running_mean,
    const optional<Tensor>& running_var, bool training, double eps, c10::string_view act, double alpha, double gain) {
  const View view(x, check_forward(x, weight, bias, running_mean, running_var, training));
  auto [y, mean, invstd, var] = forward(view, weight, bias, running_mean, running_var, training, eps, act, alpha, gain);
  return {y, mean, invstd, var};
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act_cuda(const Tensor& x, const optional<Tensor>& weight,
                                                          const optional<Tensor>& bias, double eps,
                                                          c10::string_view act, double alpha, double gain) {
  const View view(x, check_forward(x, weight, bias, {}, {}, true, true));
  auto [y, mean, invstd, var] = forward(view, weight, bias, {}, {}, true, eps, act, alpha, gain);
  return {y, mean, invstd};
}

std::tuple<Tensor, Tensor> instance_statistics_cuda(const Tensor& x, double eps) {
  const View view(x, check_forward(x, {}, {}, {}, {}, true, true));
  auto [y, mean, invstd, var] = forward(view, {}, {}, {}, {}, true, eps, "linear", 0, 1, false);
  return {mean, x.numel() ? invstd.reciprocal() : invstd};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cuda(const Tensor& gy, const Tensor& x,
                                                                const optional<Tensor>& weight,
                                                                const optional<Tensor>& bias, const Tensor& mean,
                                                                const Tensor& r, bool training, c10::string_view act,
                                                                double alpha, double gain, std::array<bool, 3> wanted) {
  const View view(x, check_backward(gy, x, weight, bias, mean, r));
  const Tensor g = view.dense(gy), gx = wanted[0] ? at::empty_like(view.x) : Tensor();
  const Tensor gw = parameter_grad(wanted[1], weight, view), gb = parameter_grad(wanted[2], bias, view);
  if (x.numel() && (wanted[0] || wanted[1] || wanted[2])) {
    const optional<Tensor> none;
    const bool pixels = view.pixels(), summed = pixels ? training && wanted[0] : training || wanted[1] || wanted[2];
    const Numbers<6> n(view, {pixels ? none : weight, pixels ? none : bias, mean, r, pixels ? none : optional(gw),
                              pixels ? none : optional(gb)});
    const Tensor w = pixels ? view.dense(weight) : n.held[0], b = pixels ? view.dense(bias) : n.held[1];
    const Tensor sums = summed ? view.sums(2) : Tensor(), totals = view.totals();
    const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
    call.check(gk_batch_norm_act_backward(
        call.pointer(g), call.pointer(view.x), call.pointer(w), call.pointer(b), call.pointer(n.held[2]),
        call.pointer(n.held[3]), call.pointer(gx), call.pointer(gw), call.pointer(gb), call.pointer(sums),
        call.pointer(totals), view.groups, view.cells(), view.rows, view.channels, view.inner, dtype_code(view.x),
        n.narrow, training, static_cast<i64>(parse_act(act)), alpha, gain, call.launcher()));
  }
  return {wanted[0] ? gx : at::empty({0}, x.options()), or_none(gw, weight, view), or_none(gb, bias, view)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_double_backward_cuda(
    const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
    const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean, const Tensor& r, bool training,
    c10::string_view act, double alpha, double gain, std::array<bool, 4> wanted) {
  const View view(x, check_double_backward(v, p, q, gy, x, weight, bias, mean, r));
  const Tensor g = view.dense(gy), vc = view.dense(v);
  const Tensor gg = wanted[0] ? at::empty_like(view.x) : Tensor(), gx = wanted[1] ? at::empty_like(view.x) : Tensor();
  const Tensor gw = parameter_grad(wanted[2], weight, view), gb = parameter_grad(wanted[3], bias, view);
  if (x.numel() && (wanted[0] || wanted[1] || wanted[2] || wanted[3])) {
    const optional<Tensor> none;
    const bool pixels = view.pixels(), summed = training || (!pixels && (wanted[2] || wanted[3]));
    const auto number = [&](const optional<Tensor>& t) { return pixels ? none : t; };
    const Numbers<8> n(view, {number(p), number(q), number(weight), number(bias), mean, r, number(gw), number(gb)});
    const auto of = [&](const optional<Tensor>& t, int i) { return pixels ? view.dense(t) : n.held[i]; };
    const Tensor pc = of(p, 0), qc = of(q, 1), w = of(weight, 2), b = of(bias, 3);
    const Tensor sums = summed ? view.sums(pixels ? kPixelSecondSums : kNormSecondSums) : Tensor();
    const Tensor totals = view.totals();
    const Call call("batch_norm_act", GK_RUNNER(batch_norm_act), view.x);
    call.check(gk_batch_norm_act_second(
        call.pointer(vc), call.pointer(pc), call.pointer(qc), call.pointer(g), call.pointer(view.x), call.pointer(w),
        call.pointer(b), call.pointer(n.held[4]), call.pointer(n.held[5]), call.pointer(gg), call.pointer(gx),
        call.pointer(gw), call.pointer(gb), call.pointer(sums), call.pointer(totals), view.groups, view.cells(),
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
  m.impl("instance_norm_act", &instance_norm_act_cuda);
  m.impl("instance_statistics", &instance_statistics_cuda);
}

}  // namespace gk
