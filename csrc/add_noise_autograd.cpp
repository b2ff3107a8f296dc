// Schema and autograd of add_noise. Two operators that are each other's derivatives, so that every order runs on them:
// images of noise, and the sums of an image against noise and against strengths.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "add_noise_op.h"
#include "autograd.h"

namespace gk::noise {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;
using Wanted = std::array<bool, 2>;

Tensor call_value(const Tensor& x, bool add, const Opt& s, const Opt& m, const Opt& s2, const Opt& m2, double factor) {
  static const auto op = find<Tensor(const Tensor&, bool, const Opt&, const Opt&, const Opt&, const Opt&, double)>(
      "gankernels_native::add_noise");
  return op.call(x, add, s, m, s2, m2, factor);
}

Pair call_sums(const Tensor& g, const Opt& s, const Tensor& m, double factor, Wanted wanted) {
  static const auto op =
      find<Pair(const Tensor&, const Opt&, const Tensor&, double, Wanted)>("gankernels_native::add_noise_sums");
  return op.call(g, s, m, factor, wanted);
}

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, bool add, const Opt& s, const Opt& m, const Opt& s2,
                        const Opt& m2, double factor) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({or_undefined(s), or_undefined(m), or_undefined(s2), or_undefined(m2)});
    ctx->saved_data["add"] = add;
    ctx->saved_data["factor"] = factor;
    ctx->set_materialize_grads(false);
    return call_value(x, add, s, m, s2, m2, factor);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(7);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    if (ctx->saved_data["add"].toBool() && ctx->needs_input_grad(0)) out[0] = grads[0];
    bool needed[4];
    for (int i = 0, edge = 1; i < 4; ++i) needed[i] = saved[i].defined() && ctx->needs_input_grad(edge++);
    for (int term = 0; term < 4; term += 2) {
      if (!saved[term + 1].defined() || !(needed[term] || needed[term + 1])) continue;
      const double factor = term == 0 ? ctx->saved_data["factor"].toDouble() : 1;
      auto [gm, gs] =
          call_sums(grads[0], given(saved[term]), saved[term + 1], factor, {needed[term + 1], needed[term]});
      if (needed[term]) out[2 + term] = gs;
      if (needed[term + 1]) out[3 + term] = gm;
    }
    return out;
  }
};

struct SumsFunction : torch::autograd::Function<SumsFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const Opt& s, const Tensor& m, double factor,
                               Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gm, gs] = call_sums(g, s, m, factor, wanted);
    ctx->save_for_backward({g, or_undefined(s), m});
    ctx->saved_data["factor"] = factor;
    ctx->set_materialize_grads(false);
    variable_list unwanted;
    if (!wanted[0]) unwanted.push_back(gm);
    if (!wanted[1]) unwanted.push_back(gs);
    ctx->mark_non_differentiable(unwanted);
    return {gm, gs};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(5);
    const Tensor &of_noise = grads[0], &of_strength = grads[1];
    if (!of_noise.defined() && !of_strength.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Tensor &g = saved[0], &s = saved[1], &m = saved[2];
    if (ctx->needs_input_grad(0)) {
      const Opt noise = of_strength.defined() ? given(m) : std::nullopt;
      out[0] = call_value(g, false, given(s), given(of_noise), given(of_strength), noise,
                          ctx->saved_data["factor"].toDouble());
    }
    int edge = 1;
    const bool needs_s = s.defined() && ctx->needs_input_grad(edge++) && of_noise.defined();
    const bool needs_m = ctx->needs_input_grad(edge) && of_strength.defined();
    if (!(needs_s || needs_m)) return out;
    // Without the gradient of the strengths s itself says how many there are.
    auto [gm, gs] = call_sums(g, given(of_strength.defined() ? of_strength : s), of_noise.defined() ? of_noise : m, 1,
                              {needs_m, needs_s});
    if (needs_s) out[1] = gs;
    if (needs_m) out[2] = gm;
    return out;
  }
};

Tensor value(const Tensor& x, bool add, const Opt& s, const Opt& m, const Opt& s2, const Opt& m2, double factor) {
  return ValueFunction::apply(x, add, s, m, s2, m2, factor);
}

Pair sums(const Tensor& g, const Opt& s, const Tensor& m, double factor, Wanted wanted) {
  const auto out = SumsFunction::apply(g, s, m, factor, wanted);
  return {out[0], out[1]};
}

}  // namespace
}  // namespace gk::noise

// add_noise: x where `add`, else 0, + s m + s2 m2, where a noise without strength takes `factor`, and a strength
// without noise counts nothing. add_noise_sums: the sum over the channels of s g, and over samples and pixels of m g;
// what `wanted` leaves out comes back empty.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("add_noise(Tensor x, bool add, Tensor? s, Tensor? m, Tensor? s2, Tensor? m2, float factor) -> Tensor");
  m.def("add_noise_sums(Tensor g, Tensor? s, Tensor m, float factor, bool[2] wanted) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("add_noise", &gk::noise::value);
  m.impl("add_noise_sums", &gk::noise::sums);
}
