// Schema and autograd of filtered_lrelu. What it does to x is, once the signs are known, linear: upsample, multiply by
// the slopes, downsample. So filtered_lrelu_linear is its derivative in x and bias, and, with the filters swapped and
// the same signs, its own: two operators close under differentiation of any order.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"
#include "fir_adjoint.h"

namespace gk {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Numbers = std::vector<SymInt>;

struct Filters {
  Tensor fu;
  optional<Tensor> fuy;
  Tensor fd;
  optional<Tensor> fdy;
};

// The numbers of filtered_lrelu.
struct Settings {
  Numbers up, down, padding;
  bool flip;
  double gain, slope, clamp;
};

// The numbers of filtered_lrelu_linear.
struct Linear {
  Numbers up, down, pad_up, pad_down;
  bool flip;
  double up_gain, gain, slope;
  bool channels_last;
};

template <class Result>
Result call_forward(const char* name, const Tensor& x, const optional<Tensor>& bias, const Filters& f,
                    const Settings& s) {
  static const auto op = find<Result(const Tensor&, const optional<Tensor>&, const Tensor&, const optional<Tensor>&,
                                     const Tensor&, const optional<Tensor>&, SymIntArrayRef, SymIntArrayRef,
                                     SymIntArrayRef, bool, double, double, double)>(name);
  return op.call(x, bias, f.fu, f.fuy, f.fd, f.fdy, s.up, s.down, s.padding, s.flip, s.gain, s.slope, s.clamp);
}

Tensor call_plain(const Tensor& x, const optional<Tensor>& bias, const Filters& f, const Settings& s) {
  return call_forward<Tensor>("gankernels_native::filtered_lrelu", x, bias, f, s);
}

std::tuple<Tensor, Tensor> call_signs(const Tensor& x, const optional<Tensor>& bias, const Filters& f,
                                      const Settings& s) {
  return call_forward<std::tuple<Tensor, Tensor>>("gankernels_native::filtered_lrelu_signs", x, bias, f, s);
}

std::tuple<Tensor, Tensor> call_linear(const Tensor& x, const optional<Tensor>& bias, const Tensor& signs,
                                       const Filters& f, const Linear& s, bool want_y, bool want_sums) {
  static const auto op = find<std::tuple<Tensor, Tensor>(
      const Tensor&, const optional<Tensor>&, const Tensor&, const Tensor&, const optional<Tensor>&, const Tensor&,
      const optional<Tensor>&, SymIntArrayRef, SymIntArrayRef, SymIntArrayRef, SymIntArrayRef, bool, double, double,
      double, bool, bool, bool)>("gankernels_native::filtered_lrelu_linear");
  return op.call(x, bias, signs, f.fu, f.fuy, f.fd, f.fdy, s.up, s.down, s.pad_up, s.pad_down, s.flip, s.up_gain,
                 s.gain, s.slope, s.channels_last, want_y, want_sums);
}

void keep(AutogradContext* ctx, const Linear& s, const Tensor& x, const Tensor& signs, const Filters& f) {
  for (const auto& [name, numbers] : {std::pair<const char*, const Numbers&>{"up", s.up},
                                      {"down", s.down},
                                      {"pad_up", s.pad_up},
                                      {"pad_down", s.pad_down}})
    ctx->saved_data[name] = SymIntArrayRef(numbers);
  ctx->saved_data["size"] = SymIntArrayRef({x.sym_size(3), x.sym_size(2)});
  ctx->saved_data["numbers"] = std::vector<double>{s.up_gain, s.gain, s.slope};
  ctx->saved_data["flip"] = s.flip;
  ctx->saved_data["channels_last"] = s.channels_last;
  ctx->set_materialize_grads(false);
  ctx->save_for_backward({signs, f.fu, f.fuy.value_or(Tensor()), f.fd, f.fdy.value_or(Tensor())});
}

// The adjoint of the pass that `ctx` kept, applied to g + bias; g may be undefined.
variable_list adjoint(AutogradContext* ctx, Tensor g, const Tensor& bias, bool want_y, bool want_sums) {
  variable_list out(2);
  if (!(want_y || want_sums) || !(g.defined() || bias.defined())) return out;
  const auto numbers = [&](const char* name) { return ctx->saved_data[name].to<Numbers>(); };
  const auto saved = ctx->get_saved_variables();
  const Tensor& signs = saved[0];
  const Filters f{saved[3], given(saved[4]), saved[1], given(saved[2])};
  const Numbers up = numbers("up"), down = numbers("down"), pad_up = numbers("pad_up"), pad_down = numbers("pad_down"),
                size = numbers("size");
  const auto scales = ctx->saved_data["numbers"].toDoubleVector();
  Linear back{down,
              up,
              {},
              {},
              !ctx->saved_data["flip"].toBool(),
              scales[0],
              scales[1],
              scales[2],
              ctx->saved_data["channels_last"].toBool()};
  Numbers result;
  for (int axis = 0; axis < 2; ++axis) {  // x, y
    const auto taps = [&](const Tensor& f, const optional<Tensor>& fy) {
      return axis == 0 ? f.sym_size(-1) : fy.value_or(f).sym_size(0);
    };
    const SymInt taps_up = taps(f.fd, f.fdy), taps_down = taps(f.fu, f.fuy);
    const SymInt &p0 = pad_up[2 * axis], &p1 = pad_up[2 * axis + 1], &q0 = pad_down[2 * axis],
                 &q1 = pad_down[2 * axis + 1];
    const SymInt middle = size[axis] * up[axis] + p0 + p1 - taps_up + 1;
    result.push_back((middle + q0 + q1 - taps_down + down[axis]) / down[axis]);
    push_adjoint_padding<SymInt>(back.pad_up, middle, result.back(), taps_down, 1, down[axis], q0);
    push_adjoint_padding<SymInt>(back.pad_down, size[axis], middle, taps_up, up[axis], 1, p0);
  }
  if (!g.defined()) {
    const Numbers shape{signs.sym_size(0), signs.sym_size(1), result[1], result[0]};
    g = at::zeros({1}, bias.options()).expand_symint(shape);
  }
  std::tie(out[0], out[1]) = call_linear(g, given(bias), signs, f, back, want_y, want_sums);
  if (!want_y) out[0] = Tensor();
  if (!want_sums) out[1] = Tensor();
  return out;
}

struct FilteredLreluFunction : torch::autograd::Function<FilteredLreluFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const optional<Tensor>& bias, const Filters& f,
                               const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, signs] = call_signs(x, bias, f, s);
    const Numbers one{1, 1}, none{0, 0, 0, 0};
    const double up_gain = s.up[0].guard_int(__FILE__, __LINE__) * s.up[1].guard_int(__FILE__, __LINE__);
    const bool last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    keep(ctx, {s.up, s.down, s.padding, none, s.flip, up_gain, s.gain, s.slope, last}, x, signs, f);
    ctx->saved_data["biased"] = bias.has_value();
    ctx->mark_non_differentiable({signs});
    return {y, signs};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const bool want_bias = ctx->saved_data["biased"].toBool() && ctx->needs_input_grad(1);
    variable_list out = adjoint(ctx, grads[0], Tensor(), ctx->needs_input_grad(0), want_bias);
    out.resize(4);
    return out;
  }
};

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const optional<Tensor>& bias, const Tensor& signs,
                               const Filters& f, const Linear& s, bool want_y, bool want_sums) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, sums] = call_linear(x, bias, signs, f, s, want_y, want_sums);
    keep(ctx, s, x, signs, f);
    ctx->saved_data["biased"] = bias.has_value();
    ctx->saved_data["want_y"] = want_y;
    ctx->saved_data["want_sums"] = want_sums;
    return {y, sums};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const bool want_bias = ctx->saved_data["biased"].toBool() && ctx->needs_input_grad(1);
    variable_list out =
        adjoint(ctx, ctx->saved_data["want_y"].toBool() ? grads[0] : Tensor(),
                ctx->saved_data["want_sums"].toBool() ? grads[1] : Tensor(), ctx->needs_input_grad(0), want_bias);
    out.resize(7);
    return out;
  }
};

Settings settings(SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef padding, bool flip, double gain, double slope,
                  double clamp) {
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, "filtered_lrelu: got ", up.size(),
              " factors up, ", down.size(), " down and ", padding.size(),
              " paddings, expected [x, y] twice and [x0, x1, y0, y1]");
  return {up.vec(), down.vec(), padding.vec(), flip, gain, slope, clamp};
}

void check_filters(const Filters& f) {
  for (const auto& t : {optional<Tensor>(f.fu), f.fuy, optional<Tensor>(f.fd), f.fdy})
    TORCH_CHECK(!(at::GradMode::is_enabled() && t.has_value() && t->requires_grad()),
                "filtered_lrelu: a filter requires a gradient, which the compiled kernels have not; detach it");
}

bool needs_gradient(const Tensor& x, const optional<Tensor>& bias) {
  return at::GradMode::is_enabled() && (x.requires_grad() || (bias.has_value() && bias->requires_grad()));
}

Tensor filtered_lrelu_autograd(const Tensor& x, const optional<Tensor>& bias, const Tensor& fu,
                               const optional<Tensor>& fuy, const Tensor& fd, const optional<Tensor>& fdy,
                               SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef padding, bool flip, double gain,
                               double slope, double clamp) {
  const Filters f{fu, fuy, fd, fdy};
  const Settings s = settings(up, down, padding, flip, gain, slope, clamp);
  check_filters(f);
  if (needs_gradient(x, bias)) return FilteredLreluFunction::apply(x, bias, f, s)[0];
  at::AutoDispatchBelowADInplaceOrView below;
  return call_plain(x, bias, f, s);
}

std::tuple<Tensor, Tensor> filtered_lrelu_signs_autograd(const Tensor& x, const optional<Tensor>& bias,
                                                         const Tensor& fu, const optional<Tensor>& fuy,
                                                         const Tensor& fd, const optional<Tensor>& fdy,
                                                         SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef padding,
                                                         bool flip, double gain, double slope, double clamp) {
  const Filters f{fu, fuy, fd, fdy};
  check_filters(f);
  const auto out = FilteredLreluFunction::apply(x, bias, f, settings(up, down, padding, flip, gain, slope, clamp));
  return {out[0], out[1]};
}

std::tuple<Tensor, Tensor> filtered_lrelu_linear_autograd(
    const Tensor& x, const optional<Tensor>& bias, const Tensor& signs, const Tensor& fu, const optional<Tensor>& fuy,
    const Tensor& fd, const optional<Tensor>& fdy, SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef pad_up,
    SymIntArrayRef pad_down, bool flip, double up_gain, double gain, double slope, bool channels_last, bool want_y,
    bool want_sums) {
  const Filters f{fu, fuy, fd, fdy};
  check_filters(f);
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && pad_up.size() == 4 && pad_down.size() == 4,
              "filtered_lrelu: expected factors [x, y] and paddings [x0, x1, y0, y1]");
  const Linear s{up.vec(), down.vec(), pad_up.vec(), pad_down.vec(), flip, up_gain, gain, slope, channels_last};
  const auto out = LinearFunction::apply(x, bias, signs, f, s, want_y, want_sums);
  return {out[0], out[1]};
}

constexpr const char* kNumbers = "SymInt[] up, SymInt[] down, SymInt[] padding, bool flip, float gain, float slope, ";

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  const std::string filters = "Tensor fu, Tensor? fuy, Tensor fd, Tensor? fdy, ";
  const std::string arguments = "(Tensor x, Tensor? bias, " + filters + kNumbers + "float clamp) -> ";
  m.def(("filtered_lrelu" + arguments + "Tensor").c_str());
  m.def(("filtered_lrelu_signs" + arguments + "(Tensor, Tensor)").c_str());
  m.def(("filtered_lrelu_linear(Tensor x, Tensor? bias, Tensor signs, " + filters +
         "SymInt[] up, SymInt[] down, SymInt[] pad_up, SymInt[] pad_down, bool flip, float up_gain, float gain, "
         "float slope, bool channels_last, bool want_y, bool want_sums) -> (Tensor, Tensor)")
            .c_str());
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("filtered_lrelu", &filtered_lrelu_autograd);
  m.impl("filtered_lrelu_signs", &filtered_lrelu_signs_autograd);
  m.impl("filtered_lrelu_linear", &filtered_lrelu_linear_autograd);
}

}  // namespace gk
