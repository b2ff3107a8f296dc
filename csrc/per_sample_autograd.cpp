// Schemas and derivatives of the sums over a sample.
//
// dot_per_sample and scale_per_sample, <a, b>[n] and f[n] x[n], are each other's derivatives, of every order. The
// norm's own two derivatives are a kernel each; further ones are composed of those two. Everywhere 1 / 0 counts as 0:
// the norm's derivatives at 0 are 0.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Reduce = Tensor(const Tensor&);
using Dot = Tensor(const Tensor&, const Tensor&, double);
using Scale = Tensor(const Tensor&, const Tensor&, double);
using Backward = Tensor(const Tensor&, const Tensor&, const Tensor&);
using Second = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                          std::array<bool, 2>);

Tensor call_sum_squares(const Tensor& x) {
  static const auto op = find<Reduce>("gankernels_native::sum_squares_per_sample");
  return op.call(x);
}
Tensor call_norm(const Tensor& x) {
  static const auto op = find<Reduce>("gankernels_native::norm_per_sample");
  return op.call(x);
}
Tensor call_dot(const Tensor& a, const Tensor& b, double factor) {
  static const auto op = find<Dot>("gankernels_native::dot_per_sample");
  return op.call(a, b, factor);
}
Tensor call_scale(const Tensor& x, const Tensor& f, double factor) {
  static const auto op = find<Scale>("gankernels_native::scale_per_sample");
  return op.call(x, f, factor);
}
Tensor call_backward(const Tensor& g, const Tensor& x, const Tensor& norm) {
  static const auto op = find<Backward>("gankernels_native::norm_per_sample_backward");
  return op.call(g, x, norm);
}
std::tuple<Tensor, Tensor> call_second(const Tensor& v, const Tensor& g, const Tensor& x, const Tensor& norm,
                                       std::array<bool, 2> wanted) {
  static const auto op = find<Second>("gankernels_native::norm_per_sample_double_backward");
  return op.call(v, g, x, norm, wanted);
}

struct SumSquaresFunction : torch::autograd::Function<SumSquaresFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({x});
    return call_sum_squares(x);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(1);
    return {call_scale(ctx->get_saved_variables()[0], grads[0], 2)};
  }
};

struct DotFunction : torch::autograd::Function<DotFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, double factor) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor()});
    ctx->saved_data["factor"] = factor;
    return call_dot(a, b, factor);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    const double factor = ctx->saved_data["factor"].toDouble();
    return {ctx->needs_input_grad(0) ? call_scale(saved[1], grads[0], factor) : Tensor(),
            ctx->needs_input_grad(1) ? call_scale(saved[0], grads[0], factor) : Tensor(), Tensor()};
  }
};

struct ScaleFunction : torch::autograd::Function<ScaleFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& f, double factor) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({f.requires_grad() ? x : Tensor(), x.requires_grad() ? f : Tensor()});
    ctx->saved_data["factor"] = factor;
    return call_scale(x, f, factor);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    const double factor = ctx->saved_data["factor"].toDouble();
    return {ctx->needs_input_grad(0) ? call_scale(grads[0], saved[1], factor) : Tensor(),
            ctx->needs_input_grad(1) ? call_dot(saved[0], grads[0], factor) : Tensor(), Tensor()};
  }
};

struct NormFunction : torch::autograd::Function<NormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    Tensor norm = call_norm(x);
    ctx->save_for_backward({x, norm});
    return norm;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(1);
    const auto saved = ctx->get_saved_variables();
    return {call_backward(grads[0], saved[0], saved[1])};
  }
};

// g x / norm. `norm` has no gradient of its own: the formulas count it as a function of x.
struct NormBackwardFunction : torch::autograd::Function<NormBackwardFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& g, const Tensor& x, const Tensor& norm) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({g, x, norm});
    return call_backward(g, x, norm);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    const Tensor &v = grads[0], &g = saved[0], &x = saved[1], &norm = saved[2];
    const std::array<bool, 2> wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    if (!wanted[0] && !wanted[1]) return {Tensor(), Tensor(), Tensor()};
    auto [gg, gx] = call_second(v, g, x, norm, wanted);
    return {wanted[0] ? gg : Tensor(), wanted[1] ? gx : Tensor(), Tensor()};
  }
};

Tensor sum_squares_autograd(const Tensor& x) { return SumSquaresFunction::apply(x); }
Tensor norm_autograd(const Tensor& x) { return NormFunction::apply(x); }
Tensor dot_autograd(const Tensor& a, const Tensor& b, double factor) { return DotFunction::apply(a, b, factor); }
Tensor scale_autograd(const Tensor& x, const Tensor& f, double factor) { return ScaleFunction::apply(x, f, factor); }
Tensor norm_backward_autograd(const Tensor& g, const Tensor& x, const Tensor& norm) {
  return NormBackwardFunction::apply(g, x, norm);
}

// One kernel, or where its own derivative is wanted the same of differentiable parts; `norm` keeps its node.
std::tuple<Tensor, Tensor> norm_double_backward_autograd(const Tensor& v, const Tensor& g, const Tensor& x,
                                                         const Tensor& norm, std::array<bool, 2> wanted) {
  if (!at::GradMode::is_enabled() ||
      !(v.requires_grad() || g.requires_grad() || x.requires_grad() || norm.requires_grad())) {
    at::AutoDispatchBelowADInplaceOrView below;
    return call_second(v, g, x, norm, wanted);
  }
  const Tensor zero = norm.eq(0), inverse = norm.masked_fill(zero, 1).reciprocal().masked_fill(zero, 0);
  const Tensor along = call_dot(v, x, 1).mul(inverse), slope = g.mul(inverse);
  return {wanted[0] ? along : at::empty({0}, g.options()),
          wanted[1] ? call_scale(v, slope, 1).add(call_scale(x, slope.mul(along).mul(inverse), -1))
                    : at::empty({0}, x.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("sum_squares_per_sample(Tensor x) -> Tensor");
  m.def("norm_per_sample(Tensor x) -> Tensor");
  m.def("dot_per_sample(Tensor a, Tensor b, float factor) -> Tensor");
  m.def("scale_per_sample(Tensor x, Tensor f, float factor) -> Tensor");
  m.def("norm_per_sample_backward(Tensor g, Tensor x, Tensor norm) -> Tensor");
  m.def(
      "norm_per_sample_double_backward(Tensor v, Tensor g, Tensor x, Tensor norm, bool[2] wanted) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("sum_squares_per_sample", &sum_squares_autograd);
  m.impl("norm_per_sample", &norm_autograd);
  m.impl("dot_per_sample", &dot_autograd);
  m.impl("scale_per_sample", &scale_autograd);
  m.impl("norm_per_sample_backward", &norm_backward_autograd);
  m.impl("norm_per_sample_double_backward", &norm_double_backward_autograd);
}

}  // namespace gk
