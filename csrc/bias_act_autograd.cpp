// Schema and autograd of bias_act. Every derivative is bias_act_derivative, whose own derivative is itself again.
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"
#include "bias_act_op.h"

namespace gk {
namespace {

using at::Tensor;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Config {
  int64_t dim;
  std::string act;
  double alpha, gain, clamp;

  bool output_suffices() const { return has_slope_of_output(parse_act(act), alpha, gain, clamp >= 0); }
  bool needs_nothing() const { return act == "linear" && clamp < 0; }
};

Tensor call_value(const Tensor& x, const optional<Tensor>& bias, const Config& c) {
  static auto op =
      find<Tensor(const Tensor&, const optional<Tensor>&, int64_t, c10::string_view, double, double, double)>(
          "gankernels_native::bias_act");
  return op.call(x, bias, c.dim, c.act, c.alpha, c.gain, c.clamp);
}

std::tuple<Tensor, Tensor> call_derivative(const Tensor& g, const optional<Tensor>& g_bias, const optional<Tensor>& h,
                                           const optional<Tensor>& ref, const optional<Tensor>& bias,
                                           bool ref_is_output, int64_t order, const Config& c, bool want_full,
                                           bool want_bias) {
  static auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const optional<Tensor>&, const optional<Tensor>&,
                                                   const optional<Tensor>&, const optional<Tensor>&, bool, int64_t,
                                                   int64_t, c10::string_view, double, double, double, bool, bool)>(
      "gankernels_native::bias_act_derivative");
  return op.call(g, g_bias, h, ref, bias, ref_is_output, order, c.dim, c.act, c.alpha, c.gain, c.clamp, want_full,
                 want_bias);
}

void keep(AutogradContext* ctx, const Config& c) {
  ctx->saved_data["dim"] = c.dim;
  ctx->saved_data["act"] = c.act;
  ctx->saved_data["numbers"] = std::vector<double>{c.alpha, c.gain, c.clamp};
}

Config kept(AutogradContext* ctx) {
  const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
  return {ctx->saved_data["dim"].toInt(), ctx->saved_data["act"].toStringRef(), numbers[0], numbers[1], numbers[2]};
}

struct BiasActFunction : torch::autograd::Function<BiasActFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const optional<Tensor>& bias, const Config& c) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_value(x, bias, c);
    keep(ctx, c);
    ctx->set_materialize_grads(false);
    ctx->saved_data["has_bias"] = bias.has_value();
    if (c.output_suffices())
      ctx->save_for_backward({y});
    else if (!c.needs_nothing())
      ctx->save_for_backward({x, or_undefined(bias)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const bool want_x = ctx->needs_input_grad(0);
    const bool want_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(1);
    if (!grads[0].defined() || !(want_x || want_bias)) return {Tensor(), Tensor(), Tensor()};
    const Config c = kept(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool from_output = c.output_suffices();
    optional<Tensor> ref, bias;
    if (from_output)
      ref = saved[0];  // attached to x by its own graph: what depends on it flows back through there
    else if (!c.needs_nothing())
      ref = saved[0], bias = given(saved[1]);
    auto [gx, gb] = call_derivative(grads[0], {}, {}, ref, bias, from_output, 1, c, want_x, want_bias);
    return {want_x ? gx : Tensor(), want_bias ? gb : Tensor(), Tensor()};
  }
};

// (g + g_bias) * h * f^(order)(ref + bias), and its sum over all but the channels.
struct DerivativeFunction : torch::autograd::Function<DerivativeFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const optional<Tensor>& g_bias,
                               const optional<Tensor>& h, const optional<Tensor>& ref, const optional<Tensor>& bias,
                               bool ref_is_output, int64_t order, const Config& c, bool want_full, bool want_bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [full, reduced] = call_derivative(g, g_bias, h, ref, bias, ref_is_output, order, c, want_full, want_bias);
    keep(ctx, c);
    ctx->set_materialize_grads(false);
    ctx->saved_data["ref_is_output"] = ref_is_output;
    ctx->saved_data["order"] = order;
    ctx->save_for_backward({g, or_undefined(g_bias), or_undefined(h), or_undefined(ref), or_undefined(bias)});
    variable_list unwanted;
    if (!want_full) unwanted.push_back(full);
    if (!want_bias) unwanted.push_back(reduced);
    ctx->mark_non_differentiable(unwanted);
    return {full, reduced};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(10);
    if (!grads[0].defined() && !grads[1].defined()) return out;
    const Config c = kept(ctx);
    const auto saved = ctx->get_saved_variables();
    const Tensor &g = saved[0], &g_bias = saved[1], &h = saved[2], &ref = saved[3], &bias = saved[4];
    bool needed[5];
    for (int i = 0, edge = 0; i < 5; ++i) needed[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
    const bool ref_is_output = ctx->saved_data["ref_is_output"].toBool();
    const int64_t order = ctx->saved_data["order"].toInt();
    const Tensor cotangent = grads[0].defined() ? grads[0] : at::zeros_like(g);
    const auto derivative = [&](const optional<Tensor>& factor, int64_t k, bool full, bool reduced) {
      return call_derivative(cotangent, given(grads[1]), factor, given(ref), given(bias), ref_is_output, k, c, full,
                             reduced);
    };
    const auto whole_g = [&] {
      if (!g_bias.defined()) return g;
      std::vector<int64_t> shape(g.dim(), 1);
      shape[c.dim] = -1;
      return at::add(g, g_bias.reshape(shape));
    };
    if (needed[0] || needed[1]) {
      auto [full, reduced] = derivative(given(h), order, needed[0], needed[1]);
      if (needed[0]) out[0] = full;
      if (needed[1]) out[1] = reduced;
    }
    if (needed[2]) out[2] = std::get<0>(derivative(whole_g(), order, true, false));
    const bool curved = !piecewise_linear(parse_act(c.act)) && !(ref_is_output && order == 3);
    if ((needed[3] || needed[4]) && curved) {
      TORCH_CHECK(order < 3, "bias_act: the derivative of order 4 of ", c.act,
                  " is not supported by the compiled backends; use gankernels.backend('reference')");
      auto [full, reduced] =
          derivative(h.defined() ? at::mul(whole_g(), h) : whole_g(), order + 1, needed[3], needed[4]);
      if (needed[3]) out[3] = full;
      if (needed[4]) out[4] = reduced;
    }
    return out;
  }
};

Tensor bias_act_autograd(const Tensor& x, const optional<Tensor>& bias, int64_t dim, c10::string_view act, double alpha,
                         double gain, double clamp) {
  return BiasActFunction::apply(x, bias, Config{dim, std::string(act), alpha, gain, clamp});
}

std::tuple<Tensor, Tensor> bias_act_derivative_autograd(const Tensor& g, const optional<Tensor>& g_bias,
                                                        const optional<Tensor>& h, const optional<Tensor>& ref,
                                                        const optional<Tensor>& bias, bool ref_is_output, int64_t order,
                                                        int64_t dim, c10::string_view act, double alpha, double gain,
                                                        double clamp, bool want_full, bool want_bias) {
  const auto out = DerivativeFunction::apply(g, g_bias, h, ref, bias, ref_is_output, order,
                                             Config{dim, std::string(act), alpha, gain, clamp}, want_full, want_bias);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("bias_act(Tensor x, Tensor? bias, int dim, str act, float alpha, float gain, float clamp) -> Tensor");
  m.def(
      "bias_act_derivative(Tensor g, Tensor? g_bias, Tensor? h, Tensor? ref, Tensor? bias, bool ref_is_output, "
      "int order, int dim, str act, float alpha, float gain, float clamp, bool want_full, bool want_bias) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("bias_act", &bias_act_autograd);
  m.impl("bias_act_derivative", &bias_act_derivative_autograd);
}

}  // namespace gk
