// Schema and autograd of modulate_act, y = f(scale x + noise + bias), and of weight_power.
//
// Forward, backward and double backward are an operator each. A weight's power has the gradient 2 g w, which is
// modulate_act again.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using Opt = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Text = c10::string_view;

using Value = Tensor(const Tensor&, const Opt&, const Opt&, const Opt&, Text, double, double, double);
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Opt&, const Opt&, const Opt&,
                                                            const Opt&, Text, double, double, double,
                                                            std::array<bool, 4>);
using DoubleBackward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Opt&, const Opt&,
                                                                          const Opt&, const Opt&, const Opt&,
                                                                          const Opt&, const Opt&, const Opt&, Text,
                                                                          double, double, double, std::array<bool, 5>);

bool trained(const Opt& t) { return t.has_value() && t->requires_grad(); }

struct Config {
  std::string act;
  double alpha, gain, clamp;

  bool bare() const { return act == "linear" && clamp < 0; }
  void keep(AutogradContext* ctx) const {
    ctx->saved_data["act"] = act;
    ctx->saved_data["numbers"] = std::vector<double>{alpha, gain, clamp};
  }
  static Config kept(AutogradContext* ctx) {
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    return {ctx->saved_data["act"].toStringRef(), numbers[0], numbers[1], numbers[2]};
  }
};

Tensor call_value(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, const Config& c) {
  static const auto op = find<Value>("gankernels_native::modulate_act");
  return op.call(x, scale, noise, bias, c.act, c.alpha, c.gain, c.clamp);
}

auto call_backward(const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise, const Opt& bias, const Config& c,
                   std::array<bool, 4> wanted) {
  static const auto op = find<Backward>("gankernels_native::modulate_act_backward");
  return op.call(g, x, scale, noise, bias, c.act, c.alpha, c.gain, c.clamp, wanted);
}

auto call_double_backward(const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise, const Opt& bias,
                          const std::array<Tensor, 4>& h, const Config& c, std::array<bool, 5> wanted) {
  static const auto op = find<DoubleBackward>("gankernels_native::modulate_act_double_backward");
  return op.call(g, x, scale, noise, bias, given(h[0]), given(h[1]), given(h[2]), given(h[3]), c.act, c.alpha, c.gain,
                 c.clamp, wanted);
}

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias,
                        const Config& c) {
    // x serves the slope and the scale's gradient: without either no image is kept.
    const bool keeps_x = !c.bare() || trained(scale);
    ctx->save_for_backward({keeps_x ? x : Tensor(), or_undefined(scale), or_undefined(noise), or_undefined(bias)});
    at::AutoDispatchBelowADInplaceOrView below;
    c.keep(ctx);
    return call_value(x, scale, noise, bias, c);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list out(5);
    std::array<bool, 4> wanted{ctx->needs_input_grad(0)};
    bool any = wanted[0];
    for (int i = 1, edge = 1; i < 4; ++i) {
      wanted[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
      any = any || wanted[i];
    }
    if (!any) return out;
    const Config c = Config::kept(ctx);
    const bool needs_x = !c.bare() || wanted[1];
    auto [gx, g_scale, g_noise, g_bias] = call_backward(grads[0], needs_x ? given(saved[0]) : std::nullopt,
                                                        given(saved[1]), given(saved[2]), given(saved[3]), c, wanted);
    const std::array<Tensor, 4> found{gx, g_scale, g_noise, g_bias};
    for (int i = 0; i < 4; ++i)
      if (wanted[i]) out[i] = found[i];
    return out;
  }
};

struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise,
                               const Opt& bias, const Config& c, std::array<bool, 4> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gx, g_scale, g_noise, g_bias] = call_backward(g, x, scale, noise, bias, c, wanted);
    c.keep(ctx);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({g, or_undefined(x), or_undefined(scale), or_undefined(noise), or_undefined(bias)});
    const variable_list all{gx, g_scale, g_noise, g_bias};
    variable_list unwanted;
    for (int i = 0; i < 4; ++i)
      if (!wanted[i]) unwanted.push_back(all[i]);
    ctx->mark_non_differentiable(unwanted);
    return all;
  }

  static variable_list backward(AutogradContext* ctx, variable_list h) {
    variable_list out(7);
    const auto saved = ctx->get_saved_variables();
    std::array<bool, 5> wanted{};
    bool any = false;
    for (int i = 0, edge = 0; i < 5; ++i) {
      wanted[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
      any = any || wanted[i];
    }
    if (!any || !(h[0].defined() || h[1].defined() || h[2].defined() || h[3].defined())) return out;
    const Config c = Config::kept(ctx);
    auto [g, x, scale, noise, bias] = call_double_backward(saved[0], given(saved[1]), given(saved[2]), given(saved[3]),
                                                           given(saved[4]), {h[0], h[1], h[2], h[3]}, c, wanted);
    const std::array<Tensor, 5> found{g, x, scale, noise, bias};
    for (int i = 0; i < 5; ++i)
      if (wanted[i]) out[i] = found[i];
    return out;
  }
};

struct DoubleBackwardFunction : torch::autograd::Function<DoubleBackwardFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise,
                               const Opt& bias, const Opt& h, const Opt& h_scale, const Opt& h_noise, const Opt& h_bias,
                               const Config& c, std::array<bool, 5> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [dg, dx, d_scale, d_noise, d_bias] = call_double_backward(
        g, x, scale, noise, bias, {or_undefined(h), or_undefined(h_scale), or_undefined(h_noise), or_undefined(h_bias)},
        c, wanted);
    return {dg, dx, d_scale, d_noise, d_bias};
  }

  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK(false,
                "modulate_act: the third derivative is not supported by the compiled backends; use "
                "gankernels.backend('reference')");
  }
};

struct PowerFunction : torch::autograd::Function<PowerFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight);
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {call_value(saved[0], at::mul(grads[0], 2), std::nullopt, std::nullopt, {"linear", 0, 1, -1})};
  }
};

Tensor call_power(const Tensor& weight) {
  static const auto op = find<Tensor(const Tensor&)>("gankernels_native::weight_power");
  return op.call(weight);
}

Tensor PowerFunction::forward(AutogradContext* ctx, const Tensor& weight) {
  ctx->save_for_backward({weight});
  at::AutoDispatchBelowADInplaceOrView below;
  return call_power(weight);
}

Tensor value(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, Text act, double alpha, double gain,
             double clamp) {
  const Config c{std::string(act), alpha, gain, clamp};
  if (at::GradMode::is_enabled() && (x.requires_grad() || trained(scale) || trained(noise) || trained(bias)))
    return ValueFunction::apply(x, scale, noise, bias, c);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_value(x, scale, noise, bias, c);
}

void value_in_place(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, Text act, double alpha,
                    double gain, double clamp) {
  TORCH_CHECK(!at::GradMode::is_enabled() || !(x.requires_grad() || trained(scale) || trained(noise) || trained(bias)),
              "modulate_act_: has no derivative; use modulate_act");
  static const auto op = find<void(const Tensor&, const Opt&, const Opt&, const Opt&, Text, double, double, double)>(
      "gankernels_native::modulate_act_");
  at::AutoDispatchBelowADInplaceOrView below;
  op.call(x, scale, noise, bias, act, alpha, gain, clamp);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise,
                                                    const Opt& bias, Text act, double alpha, double gain, double clamp,
                                                    std::array<bool, 4> wanted) {
  const auto r =
      BackwardFunction::apply(g, x, scale, noise, bias, Config{std::string(act), alpha, gain, clamp}, wanted);
  return {r[0], r[1], r[2], r[3]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> double_backward(const Tensor& g, const Opt& x, const Opt& scale,
                                                                   const Opt& noise, const Opt& bias, const Opt& h,
                                                                   const Opt& h_scale, const Opt& h_noise,
                                                                   const Opt& h_bias, Text act, double alpha,
                                                                   double gain, double clamp,
                                                                   std::array<bool, 5> wanted) {
  const auto r = DoubleBackwardFunction::apply(g, x, scale, noise, bias, h, h_scale, h_noise, h_bias,
                                               Config{std::string(act), alpha, gain, clamp}, wanted);
  return {r[0], r[1], r[2], r[3], r[4]};
}

Tensor power(const Tensor& weight) { return PowerFunction::apply(weight); }

}  // namespace
}  // namespace gk

// scale is [N, C], noise [N or 1, 1, H, W], bias [C], all in the dtype of sums; clamp -1 is none. What `wanted` leaves
// out comes back as an empty tensor: of x, scale, noise, bias, and for the double backward of g before these.
#define GK_NUMBERS "str act, float alpha, float gain, float clamp"
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("modulate_act(Tensor x, Tensor? scale, Tensor? noise, Tensor? bias, " GK_NUMBERS ") -> Tensor");
  m.def("modulate_act_(Tensor(a!) x, Tensor? scale, Tensor? noise, Tensor? bias, " GK_NUMBERS ") -> ()");
  m.def("modulate_act_backward(Tensor g, Tensor? x, Tensor? scale, Tensor? noise, Tensor? bias, " GK_NUMBERS
        ", bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "modulate_act_double_backward(Tensor g, Tensor? x, Tensor? scale, Tensor? noise, Tensor? bias, Tensor? h, "
      "Tensor? h_scale, Tensor? h_noise, Tensor? h_bias, " GK_NUMBERS
      ", bool[5] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("weight_power(Tensor weight) -> Tensor");
}
#undef GK_NUMBERS

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("modulate_act", &gk::value);
  m.impl("modulate_act_", &gk::value_in_place);
  m.impl("modulate_act_backward", &gk::backward);
  m.impl("modulate_act_double_backward", &gk::double_backward);
  m.impl("weight_power", &gk::power);
}
