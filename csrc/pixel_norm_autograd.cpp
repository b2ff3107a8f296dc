// Schema and autograd of pixel_norm: forward, backward and double backward each an operator of its own.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace gk {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Wanted = std::array<bool, 2>;
using Pair = std::tuple<Tensor, Tensor>;

Tensor call_value(const Tensor& x, int64_t dim, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::pixel_norm", "")
                             .typed<Tensor(const Tensor&, int64_t, double)>();
  return op.call(x, dim, eps);
}

Tensor call_backward(const Tensor& g, const Tensor& x, int64_t dim, double eps) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::pixel_norm_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, int64_t, double)>();
  return op.call(g, x, dim, eps);
}

Pair call_second(const Tensor& v, const Tensor& g, const Tensor& x, int64_t dim, double eps, Wanted wanted) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::pixel_norm_double_backward", "")
                             .typed<Pair(const Tensor&, const Tensor&, const Tensor&, int64_t, double, Wanted)>();
  return op.call(v, g, x, dim, eps, wanted);
}

void keep(AutogradContext* ctx, int64_t dim, double eps) {
  ctx->saved_data["dim"] = dim;
  ctx->saved_data["eps"] = eps;
  ctx->set_materialize_grads(false);
}
int64_t dim_of(AutogradContext* ctx) { return ctx->saved_data["dim"].toInt(); }
double eps_of(AutogradContext* ctx) { return ctx->saved_data["eps"].toDouble(); }

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t dim, double eps) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep(ctx, dim, eps);
    ctx->save_for_backward({x});
    return call_value(x, dim, eps);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined() || !ctx->needs_input_grad(0)) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    return {call_backward(grads[0], saved[0], dim_of(ctx), eps_of(ctx)), Tensor(), Tensor()};
  }
};

struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& g, const Tensor& x, int64_t dim, double eps) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep(ctx, dim, eps);
    ctx->save_for_backward({g, x});
    return call_backward(g, x, dim, eps);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Wanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    if (!grads[0].defined() || !(wanted[0] || wanted[1])) return variable_list(4);
    const auto saved = ctx->get_saved_variables();
    auto [gg, gx] = call_second(grads[0], saved[0], saved[1], dim_of(ctx), eps_of(ctx), wanted);
    return {wanted[0] ? gg : Tensor(), wanted[1] ? gx : Tensor(), Tensor(), Tensor()};
  }
};

struct SecondFunction : torch::autograd::Function<SecondFunction> {
  static variable_list forward(AutogradContext*, const Tensor& v, const Tensor& g, const Tensor& x, int64_t dim,
                               double eps, Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gg, gx] = call_second(v, g, x, dim, eps, wanted);
    return {gg, gx};
  }

  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK(false,
                "pixel_norm: the derivative of order 3 is not supported by the compiled backends; use "
                "gankernels.backend('reference')");
  }
};

Tensor value_autograd(const Tensor& x, int64_t dim, double eps) { return ValueFunction::apply(x, dim, eps); }
Tensor backward_autograd(const Tensor& g, const Tensor& x, int64_t dim, double eps) {
  return BackwardFunction::apply(g, x, dim, eps);
}
Pair second_autograd(const Tensor& v, const Tensor& g, const Tensor& x, int64_t dim, double eps, Wanted wanted) {
  const auto out = SecondFunction::apply(v, g, x, dim, eps, wanted);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("pixel_norm(Tensor x, int dim, float eps) -> Tensor");
  m.def("pixel_norm_backward(Tensor g, Tensor x, int dim, float eps) -> Tensor");
  m.def(
      "pixel_norm_double_backward(Tensor v, Tensor g, Tensor x, int dim, float eps, bool[2] wanted) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("pixel_norm", &value_autograd);
  m.impl("pixel_norm_backward", &backward_autograd);
  m.impl("pixel_norm_double_backward", &second_autograd);
}

}  // namespace gk
