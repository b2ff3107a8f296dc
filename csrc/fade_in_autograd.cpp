// Schema and autograd of fade_in. Two operators that are each other's derivatives, so that every order runs on them:
// a mix of images and enlarged low ones, and its adjoint in all of its arguments.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"
#include "fade_in_op.h"

namespace gk::fade {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Three = std::tuple<Tensor, Tensor, Tensor>;
using Wanted = std::array<bool, 3>;

Tensor call_value(const Opt& x, const Opt& l, const Opt& a, const Opt& x2, const Opt& l2, const Opt& a2,
                  bool difference, double factor, int64_t r) {
  static const auto op =
      find<Tensor(const Opt&, const Opt&, const Opt&, const Opt&, const Opt&, const Opt&, bool, double, int64_t)>(
          "gankernels_native::fade_in");
  return op.call(x, l, a, x2, l2, a2, difference, factor, r);
}

Three call_adjoint(const Tensor& g, const Opt& x, const Opt& l, const Opt& a, bool difference, double factor, int64_t r,
                   Wanted wanted) {
  static const auto op = find<Three(const Tensor&, const Opt&, const Opt&, const Opt&, bool, double, int64_t, Wanted)>(
      "gankernels_native::fade_in_adjoint");
  return op.call(g, x, l, a, difference, factor, r, wanted);
}

bool learns(const Opt& t) { return t.has_value() && t->requires_grad(); }
Tensor kept(const Opt& t, bool keep) { return keep ? or_undefined(t) : Tensor(); }

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Opt& x, const Opt& l, const Opt& a, const Opt& x2, const Opt& l2,
                        const Opt& a2, bool difference, double factor, int64_t r) {
    at::AutoDispatchBelowADInplaceOrView below;
    const bool one = learns(a), two = learns(a2);  // else images are not needed again
    ctx->save_for_backward(
        {kept(x, one), kept(l, one), or_undefined(a), kept(x2, two), kept(l2, two), or_undefined(a2)});
    int64_t present = 0, bit = 1;
    for (const Opt* t : {&x, &l, &a, &x2, &l2, &a2}) {
      if (t->has_value()) present |= bit;
      bit *= 2;
    }
    ctx->saved_data["present"] = present;
    ctx->saved_data["difference"] = difference;
    ctx->saved_data["factor"] = factor;
    ctx->saved_data["r"] = r;
    ctx->set_materialize_grads(false);
    return call_value(x, l, a, x2, l2, a2, difference, factor, r);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(9);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const int64_t present = ctx->saved_data["present"].toInt();
    bool needed[6];
    for (int i = 0, edge = 0; i < 6; ++i) needed[i] = (present >> i & 1) && ctx->needs_input_grad(edge++);
    for (int term = 0; term < 6; term += 3) {
      const Wanted wanted = {needed[term], needed[term + 1], needed[term + 2]};
      if (!(wanted[0] || wanted[1] || wanted[2])) continue;
      const Opt x = wanted[2] ? given(saved[term]) : std::nullopt,
                l = wanted[2] ? given(saved[term + 1]) : std::nullopt;
      auto [gx, gl, ga] =
          call_adjoint(grads[0], x, l, given(saved[term + 2]), term == 3 || ctx->saved_data["difference"].toBool(),
                       term == 3 ? 1 : ctx->saved_data["factor"].toDouble(), ctx->saved_data["r"].toInt(), wanted);
      if (wanted[0]) out[term] = gx;
      if (wanted[1]) out[term + 1] = gl;
      if (wanted[2]) out[term + 2] = ga;
    }
    return out;
  }
};

struct AdjointFunction : torch::autograd::Function<AdjointFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& g, const Opt& x, const Opt& l, const Opt& a,
                               bool difference, double factor, int64_t r, Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gx, gl, ga] = call_adjoint(g, x, l, a, difference, factor, r, wanted);
    ctx->save_for_backward({kept(g, wanted[2] || learns(a)), kept(x, wanted[2]), kept(l, wanted[2]), or_undefined(a)});
    ctx->saved_data["has_x"] = x.has_value();
    ctx->saved_data["has_l"] = l.has_value();
    ctx->saved_data["difference"] = difference;
    ctx->saved_data["factor"] = factor;
    ctx->saved_data["r"] = r;
    ctx->set_materialize_grads(false);
    variable_list outs = {gx, gl, ga}, unwanted;
    for (int i = 0; i < 3; ++i)
      if (!wanted[i]) unwanted.push_back(outs[i]);
    ctx->mark_non_differentiable(unwanted);
    return outs;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(8);
    const Tensor &vx = grads[0], &vl = grads[1], &va = grads[2];
    if (!vx.defined() && !vl.defined() && !va.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Tensor &g = saved[0], &x = saved[1], &l = saved[2], &a = saved[3];
    const int64_t r = ctx->saved_data["r"].toInt();
    int edge = 1;
    const bool of_x = ctx->saved_data["has_x"].toBool() && ctx->needs_input_grad(edge++) && va.defined();
    const bool of_l = ctx->saved_data["has_l"].toBool() && ctx->needs_input_grad(edge++) && va.defined();
    const bool of_a = a.defined() && ctx->needs_input_grad(edge) && (vx.defined() || vl.defined());
    if (ctx->needs_input_grad(0)) {
      const bool two = va.defined();
      out[0] = call_value(given(vx), given(vl), given(a), two ? given(x) : std::nullopt, two ? given(l) : std::nullopt,
                          given(va), ctx->saved_data["difference"].toBool(), ctx->saved_data["factor"].toDouble(), r);
    }
    if (!(of_x || of_l || of_a)) return out;
    auto [dx, dl, da] = call_adjoint(g, of_a ? given(vx) : std::nullopt, of_a ? given(vl) : std::nullopt, given(va),
                                     true, 1, r, {of_x, of_l, of_a});
    if (of_x) out[1] = dx;
    if (of_l) out[2] = dl;
    if (of_a) out[3] = da;
    return out;
  }
};

Tensor value(const Opt& x, const Opt& l, const Opt& a, const Opt& x2, const Opt& l2, const Opt& a2, bool difference,
             double factor, int64_t r) {
  return ValueFunction::apply(x, l, a, x2, l2, a2, difference, factor, r);
}

Three adjoint(const Tensor& g, const Opt& x, const Opt& l, const Opt& a, bool difference, double factor, int64_t r,
              Wanted wanted) {
  const auto out = AdjointFunction::apply(g, x, l, a, difference, factor, r, wanted);
  return {out[0], out[1], out[2]};
}

}  // namespace
}  // namespace gk::fade

// fade_in: a x + b up(l) + a2 (x2 - up(l2)), where `a` is `factor` if it is none, b is 1 - a, or -a in a `difference`,
// and what is none counts nothing. fade_in_adjoint, of the first two terms: a g, b times g's sums over r x r, and the
// sum of g (x - up(l)); what `wanted` leaves out comes back empty.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "fade_in(Tensor? x, Tensor? l, Tensor? a, Tensor? x2, Tensor? l2, Tensor? a2, bool difference, float factor, "
      "int r) -> Tensor");
  m.def(
      "fade_in_adjoint(Tensor g, Tensor? x, Tensor? l, Tensor? a, bool difference, float factor, int r, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("fade_in", &gk::fade::value);
  m.impl("fade_in_adjoint", &gk::fade::adjoint);
}
