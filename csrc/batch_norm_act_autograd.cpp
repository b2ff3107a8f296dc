// Schema and autograd of batch_norm_act and instance_norm_act: forward, backward and double backward each an operator
// of its own, the latter two for both. Where mean is [N, C] the statistics are each sample's. weight and bias are [C],
// [N, C] or, as 1 + scale and shift, of the shape of x.
//
// The operators are functional: running statistics are read in evaluation, and what training adds to them is returned.
#include <ATen/Functions.h>
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

using Forward = Four(const Tensor&, const optional<Tensor>&, const optional<Tensor>&, const optional<Tensor>&,
                     const optional<Tensor>&, bool, double, c10::string_view, double, double);
using Instance = Three(const Tensor&, const optional<Tensor>&, const optional<Tensor>&, double, c10::string_view,
                       double, double);
using Statistics = std::tuple<Tensor, Tensor>(const Tensor&, double);
using Backward = Three(const Tensor&, const Tensor&, const optional<Tensor>&, const optional<Tensor>&, const Tensor&,
                       const Tensor&, bool, c10::string_view, double, double, std::array<bool, 3>);
using Second = Four(const optional<Tensor>&, const optional<Tensor>&, const optional<Tensor>&, const Tensor&,
                    const Tensor&, const optional<Tensor>&, const optional<Tensor>&, const Tensor&, const Tensor&, bool,
                    c10::string_view, double, double, std::array<bool, 4>);

const c10::TypedOperatorHandle<Forward>& forward_op() {
  static const auto op = find<Forward>("gankernels_native::batch_norm_act");
  return op;
}
const c10::TypedOperatorHandle<Instance>& instance_op() {
  static const auto op = find<Instance>("gankernels_native::instance_norm_act");
  return op;
}
const c10::TypedOperatorHandle<Statistics>& statistics_op() {
  static const auto op = find<Statistics>("gankernels_native::instance_statistics");
  return op;
}
const c10::TypedOperatorHandle<Backward>& backward_op() {
  static const auto op = find<Backward>("gankernels_native::batch_norm_act_backward");
  return op;
}
const c10::TypedOperatorHandle<Second>& second_op() {
  static const auto op = find<Second>("gankernels_native::batch_norm_act_double_backward");
  return op;
}

struct Config {
  bool training;
  std::string act;
  double alpha, gain;

  void keep(AutogradContext* ctx) const {
    ctx->saved_data["training"] = training;
    ctx->saved_data["act"] = act;
    ctx->saved_data["numbers"] = std::vector<double>{alpha, gain};
  }
  static Config kept(AutogradContext* ctx) {
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    return {ctx->saved_data["training"].toBool(), ctx->saved_data["act"].toStringRef(), numbers[0], numbers[1]};
  }
};

// Which of the first `count` inputs (absent ones have no edge) want a gradient.
template <size_t count>
std::array<bool, count> needs(AutogradContext* ctx, const std::array<bool, count>& present) {
  std::array<bool, count> out{};
  size_t edge = 0;
  for (size_t i = 0; i < count; ++i) out[i] = present[i] && ctx->needs_input_grad(edge++);
  return out;
}

struct ForwardFunction : torch::autograd::Function<ForwardFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const optional<Tensor>& weight,
                               const optional<Tensor>& bias, const optional<Tensor>& running_mean,
                               const optional<Tensor>& running_var, double eps, const Config& c, bool instance) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y, mean, invstd, var;
    if (instance)
      std::tie(y, mean, invstd) = instance_op().call(x, weight, bias, eps, c.act, c.alpha, c.gain);
    else
      std::tie(y, mean, invstd, var) =
          forward_op().call(x, weight, bias, running_mean, running_var, c.training, eps, c.act, c.alpha, c.gain);
    c.keep(ctx);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({x, or_undefined(weight), or_undefined(bias), mean, invstd});
    if (instance) {
      ctx->mark_non_differentiable({mean, invstd});
      return {y, mean, invstd};
    }
    ctx->mark_non_differentiable({mean, invstd, var});
    return {y, mean, invstd, var};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(8);
    const auto saved = ctx->get_saved_variables();
    const auto wanted = needs<3>(ctx, {true, saved[1].defined(), saved[2].defined()});
    if (!grads[0].defined() || !(wanted[0] || wanted[1] || wanted[2])) return out;
    const Config c = Config::kept(ctx);
    auto [gx, gw, gb] = backward_op().call(grads[0], saved[0], given(saved[1]), given(saved[2]), saved[3], saved[4],
                                           c.training, c.act, c.alpha, c.gain, wanted);
    if (wanted[0]) out[0] = gx;
    if (wanted[1]) out[1] = gw;
    if (wanted[2]) out[2] = gb;
    return out;
  }
};

// mean and invstd have no gradient of their own: in training the formulas count them as functions of x.
struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& gy, const Tensor& x, const optional<Tensor>& weight,
                               const optional<Tensor>& bias, const Tensor& mean, const Tensor& invstd, const Config& c,
                               std::array<bool, 3> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gx, gw, gb] =
        backward_op().call(gy, x, weight, bias, mean, invstd, c.training, c.act, c.alpha, c.gain, wanted);
    c.keep(ctx);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({gy, x, or_undefined(weight), or_undefined(bias), mean, invstd});
    variable_list unwanted;
    if (!wanted[0]) unwanted.push_back(gx);
    if (!wanted[1]) unwanted.push_back(gw);
    if (!wanted[2]) unwanted.push_back(gb);
    ctx->mark_non_differentiable(unwanted);
    return {gx, gw, gb};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(8);
    const auto saved = ctx->get_saved_variables();
    const auto wanted = needs<4>(ctx, {true, true, saved[2].defined(), saved[3].defined()});
    if (!(grads[0].defined() || grads[1].defined() || grads[2].defined())) return out;
    const Config c = Config::kept(ctx);
    auto [ggy, gx, gw, gb] =
        second_op().call(given(grads[0]), given(grads[1]), given(grads[2]), saved[0], saved[1], given(saved[2]),
                         given(saved[3]), saved[4], saved[5], c.training, c.act, c.alpha, c.gain, wanted);
    if (wanted[0]) out[0] = ggy;
    if (wanted[1]) out[1] = gx;
    if (wanted[2]) out[2] = gw;
    if (wanted[3]) out[3] = gb;
    return out;
  }
};

// Mean and deviation, whose gradient (g_mean + g_deviation (x - mean) / deviation) / size is itself a normalisation:
// its derivatives are those of instance_norm_act.
struct StatisticsFunction : torch::autograd::Function<StatisticsFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, double eps) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [mean, deviation] = statistics_op().call(x, eps);
    ctx->set_materialize_grads(false);
    ctx->saved_data["eps"] = eps;
    ctx->save_for_backward({x});
    return {mean, deviation};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!(grads[0].defined() || grads[1].defined()) || !ctx->needs_input_grad(0)) return variable_list(2);
    const Tensor x = ctx->get_saved_variables()[0];
    const auto options = x.options().dtype(at::toOpMathType(x.scalar_type()));
    const auto size = at::IntArrayRef(x.sizes()).slice(2);
    const double over = 1.0 / c10::multiply_integers(size);
    const auto share = [&](const Tensor& g) {
      return g.defined() ? g.mul(over) : at::zeros({x.size(0), x.size(1)}, options);
    };
    const auto gx =
        instance_op().call(x, share(grads[1]), share(grads[0]), ctx->saved_data["eps"].toDouble(), "linear", 0, 1);
    return {std::get<0>(gx), Tensor()};
  }
};

struct SecondFunction : torch::autograd::Function<SecondFunction> {
  static variable_list forward(AutogradContext* ctx, const optional<Tensor>& v, const optional<Tensor>& p,
                               const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
                               const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean,
                               const Tensor& invstd, const Config& c, std::array<bool, 4> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [ggy, gx, gw, gb] =
        second_op().call(v, p, q, gy, x, weight, bias, mean, invstd, c.training, c.act, c.alpha, c.gain, wanted);
    return {ggy, gx, gw, gb};
  }

  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK(false,
                "batch_norm_act: the derivative of order 3 is not supported by the compiled backends; use "
                "gankernels.backend('reference') (its kernels are those of all normalisations)");
  }
};

Four forward_autograd(const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias,
                      const optional<Tensor>& running_mean, const optional<Tensor>& running_var, bool training,
                      double eps, c10::string_view act, double alpha, double gain) {
  const auto out = ForwardFunction::apply(x, weight, bias, running_mean, running_var, eps,
                                          Config{training, std::string(act), alpha, gain}, false);
  return {out[0], out[1], out[2], out[3]};
}

Three instance_autograd(const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, double eps,
                        c10::string_view act, double alpha, double gain) {
  const optional<Tensor> none;
  const auto out =
      ForwardFunction::apply(x, weight, bias, none, none, eps, Config{true, std::string(act), alpha, gain}, true);
  return {out[0], out[1], out[2]};
}

std::tuple<Tensor, Tensor> statistics_autograd(const Tensor& x, double eps) {
  const auto out = StatisticsFunction::apply(x, eps);
  return {out[0], out[1]};
}

Three backward_autograd(const Tensor& gy, const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias,
                        const Tensor& mean, const Tensor& invstd, bool training, c10::string_view act, double alpha,
                        double gain, std::array<bool, 3> wanted) {
  const auto out = BackwardFunction::apply(gy, x, weight, bias, mean, invstd,
                                           Config{training, std::string(act), alpha, gain}, wanted);
  return {out[0], out[1], out[2]};
}

Four second_autograd(const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy,
                     const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean,
                     const Tensor& invstd, bool training, c10::string_view act, double alpha, double gain,
                     std::array<bool, 4> wanted) {
  const auto out = SecondFunction::apply(v, p, q, gy, x, weight, bias, mean, invstd,
                                         Config{training, std::string(act), alpha, gain}, wanted);
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "batch_norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool "
      "training, "
      "float eps, str act, float alpha, float gain) -> (Tensor y, Tensor mean, Tensor invstd, Tensor var)");
  m.def(
      "instance_norm_act(Tensor x, Tensor? weight, Tensor? bias, float eps, str act, float alpha, float gain) "
      "-> (Tensor y, Tensor mean, Tensor invstd)");
  m.def("instance_statistics(Tensor x, float eps) -> (Tensor mean, Tensor deviation)");
  m.def(
      "batch_norm_act_backward(Tensor gy, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, "
      "bool training, str act, float alpha, float gain, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_act_double_backward(Tensor? v, Tensor? p, Tensor? q, Tensor gy, Tensor x, Tensor? weight, "
      "Tensor? bias, Tensor mean, Tensor invstd, bool training, str act, float alpha, float gain, bool[4] wanted) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("batch_norm_act", &forward_autograd);
  m.impl("instance_norm_act", &instance_autograd);
  m.impl("instance_statistics", &statistics_autograd);
  m.impl("batch_norm_act_backward", &backward_autograd);
  m.impl("batch_norm_act_double_backward", &second_autograd);
}

}  // namespace gk
