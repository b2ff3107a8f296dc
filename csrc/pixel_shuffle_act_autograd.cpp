// Schema and autograd of pixel_shuffle_act, y = P f(x + bias) with P the permutation: forward, backward and double
// backward are an operator each.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "autograd.h"
#include "pixel_shuffle_act_op.h"

namespace gk::shuffle {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Text = c10::string_view;
using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

struct Config {
  int64_t r;
  std::string act;
  double alpha, gain, clamp;

  bool bare() const { return is_bare(parse_act(act), clamp); }
  // Of piecewise linear activations alone: a curve's output, rounded, tells its slope less well than its input.
  bool from_output() const {
    const Act a = parse_act(act);
    return piecewise_linear(a) && has_slope_of_output(a, alpha, gain, clamp >= 0);
  }
  void keep(AutogradContext* ctx) const {
    ctx->saved_data["r"] = r;
    ctx->saved_data["act"] = act;
    ctx->saved_data["numbers"] = std::vector<double>{alpha, gain, clamp};
    ctx->set_materialize_grads(false);
  }
  static Config kept(AutogradContext* ctx) {
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    return {ctx->saved_data["r"].toInt(), ctx->saved_data["act"].toStringRef(), numbers[0], numbers[1], numbers[2]};
  }
};

Tensor call_value(const Tensor& x, const Opt& bias, const Config& c) {
  static const auto op = find<Tensor(const Tensor&, const Opt&, int64_t, Text, double, double, double)>(
      "gankernels_native::pixel_shuffle_act");
  return op.call(x, bias, c.r, c.act, c.alpha, c.gain, c.clamp);
}

Pair call_backward(const Tensor& g, const Opt& ref, const Opt& bias, bool ref_is_output, const Config& c,
                   std::array<bool, 2> wanted) {
  static const auto op = find<Pair(const Tensor&, const Opt&, const Opt&, bool, int64_t, Text, double, double, double,
                                   std::array<bool, 2>)>("gankernels_native::pixel_shuffle_act_backward");
  return op.call(g, ref, bias, ref_is_output, c.r, c.act, c.alpha, c.gain, c.clamp, wanted);
}

Triple call_second(const Opt& v, const Opt& v_bias, const Tensor& g, const Opt& ref, const Opt& bias,
                   bool ref_is_output, const Config& c, std::array<bool, 3> wanted) {
  static const auto op =
      find<Triple(const Opt&, const Opt&, const Tensor&, const Opt&, const Opt&, bool, int64_t, Text, double, double,
                  double, std::array<bool, 3>)>("gankernels_native::pixel_shuffle_act_double_backward");
  return op.call(v, v_bias, g, ref, bias, ref_is_output, c.r, c.act, c.alpha, c.gain, c.clamp, wanted);
}

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Opt& bias, const Config& c) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_value(x, bias, c);
    c.keep(ctx);
    ctx->saved_data["has_bias"] = bias.has_value();
    if (c.from_output())
      ctx->save_for_backward({y, Tensor()});
    else
      ctx->save_for_backward({c.bare() ? Tensor() : x, c.bare() ? Tensor() : or_undefined(bias)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const std::array<bool, 2> wanted{ctx->needs_input_grad(0),
                                     ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(1)};
    if (!grads[0].defined() || !(wanted[0] || wanted[1])) return variable_list(3);
    const Config c = Config::kept(ctx);
    const auto saved = ctx->get_saved_variables();
    auto [gx, g_bias] = call_backward(grads[0], given(saved[0]), given(saved[1]), c.from_output(), c, wanted);
    return {wanted[0] ? gx : Tensor(), wanted[1] ? g_bias : Tensor(), Tensor()};
  }
};

struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const Opt& ref, const Opt& bias,
                               bool ref_is_output, const Config& c, std::array<bool, 2> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gx, g_bias] = call_backward(g, ref, bias, ref_is_output, c, wanted);
    c.keep(ctx);
    ctx->saved_data["ref_is_output"] = ref_is_output;
    ctx->save_for_backward({g, or_undefined(ref), or_undefined(bias)});
    variable_list unwanted;
    if (!wanted[0]) unwanted.push_back(gx);
    if (!wanted[1]) unwanted.push_back(g_bias);
    ctx->mark_non_differentiable(unwanted);
    return {gx, g_bias};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Config c = Config::kept(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool ref_is_output = ctx->saved_data["ref_is_output"].toBool();
    const bool curved = !piecewise_linear(parse_act(c.act));
    std::array<bool, 3> wanted{};
    for (int i = 0, edge = 0; i < 3; ++i)
      wanted[i] = saved[i].defined() && ctx->needs_input_grad(edge++) && (i == 0 || curved);
    if (!(grads[0].defined() || grads[1].defined()) || !(wanted[0] || wanted[1] || wanted[2])) return variable_list(6);
    auto [d_g, d_ref, d_bias] = call_second(given(grads[0]), given(grads[1]), saved[0], given(saved[1]),
                                            given(saved[2]), ref_is_output, c, wanted);
    variable_list out(6);
    if (wanted[0]) out[0] = d_g;
    if (wanted[1]) out[1] = d_ref;
    if (wanted[2]) out[2] = d_bias;
    return out;
  }
};

struct SecondFunction : torch::autograd::Function<SecondFunction> {
  static variable_list forward(AutogradContext*, const Opt& v, const Opt& v_bias, const Tensor& g, const Opt& ref,
                               const Opt& bias, bool ref_is_output, const Config& c, std::array<bool, 3> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [d_g, d_ref, d_bias] = call_second(v, v_bias, g, ref, bias, ref_is_output, c, wanted);
    return {d_g, d_ref, d_bias};
  }
  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK(false,
                "pixel_shuffle_act: the derivative of order 3 is not supported by the compiled backends; use "
                "gankernels.backend('reference')");
  }
};

Tensor value(const Tensor& x, const Opt& bias, int64_t r, Text act, double alpha, double gain, double clamp) {
  return ValueFunction::apply(x, bias, Config{r, std::string(act), alpha, gain, clamp});
}

Pair backward(const Tensor& g, const Opt& ref, const Opt& bias, bool ref_is_output, int64_t r, Text act, double alpha,
              double gain, double clamp, std::array<bool, 2> wanted) {
  const Config c{r, std::string(act), alpha, gain, clamp};
  const auto out = BackwardFunction::apply(g, ref, bias, ref_is_output, c, wanted);
  return {out[0], out[1]};
}

Triple double_backward(const Opt& v, const Opt& v_bias, const Tensor& g, const Opt& ref, const Opt& bias,
                       bool ref_is_output, int64_t r, Text act, double alpha, double gain, double clamp,
                       std::array<bool, 3> wanted) {
  const Config c{r, std::string(act), alpha, gain, clamp};
  const auto out = SecondFunction::apply(v, v_bias, g, ref, bias, ref_is_output, c, wanted);
  return {out[0], out[1], out[2]};
}

}  // namespace
}  // namespace gk::shuffle

// ref is x, or y where ref_is_output (no bias then), or nothing where no slope depends on it. What `wanted` leaves out
// comes back as an empty tensor: of x and bias, and for the double backward of g, ref and bias.
#define GK_NUMBERS "int r, str act, float alpha, float gain, float clamp"
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("pixel_shuffle_act(Tensor x, Tensor? bias, " GK_NUMBERS ") -> Tensor");
  m.def("pixel_shuffle_act_backward(Tensor g, Tensor? ref, Tensor? bias, bool ref_is_output, " GK_NUMBERS
        ", bool[2] wanted) -> (Tensor, Tensor)");
  m.def(
      "pixel_shuffle_act_double_backward(Tensor? v, Tensor? v_bias, Tensor g, Tensor? ref, Tensor? bias, "
      "bool ref_is_output, " GK_NUMBERS ", bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}
#undef GK_NUMBERS

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("pixel_shuffle_act", &gk::shuffle::value);
  m.impl("pixel_shuffle_act_backward", &gk::shuffle::backward);
  m.impl("pixel_shuffle_act_double_backward", &gk::shuffle::double_backward);
}
