// Schema and autograd of upfirdn2d. The operator is bilinear in x and filter, so two operators close under
// differentiation of any order: upfirdn2d, whose adjoint in x is itself, and upfirdn2d_filter_grad. On the CPU the
// gradients of a separable filter are an operator of their own, which closes likewise: upfirdn2d_factor_grads.
#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "autograd.h"
#include "cuda/device.h"
#include "fir_adjoint.h"
#include "signatures.h"

namespace gk {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// All but the tensors: factors and padding in the order of the schema, [x, y] and [x0, x1, y0, y1].
struct Settings {
  std::vector<SymInt> up, down, padding;
  bool flip;
  double gain;
};

Tensor call_upfirdn2d(const Tensor& x, const Tensor& f, const optional<Tensor>& fy, const Settings& s) {
  static const auto op = find<Resampling>("gankernels_native::upfirdn2d");
  return op.call(x, f, fy, s.up, s.down, s.padding, s.flip, s.gain);
}

Tensor call_filter_grad(const Tensor& x, const Tensor& g, SymIntArrayRef taps, const Settings& s) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, SymIntArrayRef, SymIntArrayRef, SymIntArrayRef,
                                     SymIntArrayRef, bool, double)>("gankernels_native::upfirdn2d_filter_grad");
  return op.call(x, g, taps, s.up, s.down, s.padding, s.flip, s.gain);
}

std::tuple<Tensor, Tensor> call_factor_grads(const Tensor& x, const Tensor& g, const Tensor& f, const Tensor& fy,
                                             const Settings& s, std::array<bool, 2> wanted) {
  static const auto op =
      find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, SymIntArrayRef,
                                      SymIntArrayRef, SymIntArrayRef, bool, double, std::array<bool, 2>)>(
          "gankernels_native::upfirdn2d_factor_grads");
  return op.call(x, g, f, fy, s.up, s.down, s.padding, s.flip, s.gain, wanted);
}

void keep(AutogradContext* ctx, const Settings& s, const Tensor& x) {
  ctx->saved_data["up"] = SymIntArrayRef(s.up);
  ctx->saved_data["down"] = SymIntArrayRef(s.down);
  ctx->saved_data["padding"] = SymIntArrayRef(s.padding);
  ctx->saved_data["size"] = SymIntArrayRef({x.sym_size(3), x.sym_size(2)});
  ctx->saved_data["flip"] = s.flip;
  ctx->saved_data["gain"] = s.gain;
}

std::vector<SymInt> kept_numbers(AutogradContext* ctx, const char* name) {
  return ctx->saved_data[name].to<std::vector<SymInt>>();
}

Settings kept(AutogradContext* ctx) {
  return {kept_numbers(ctx, "up"), kept_numbers(ctx, "down"), kept_numbers(ctx, "padding"),
          ctx->saved_data["flip"].toBool(), ctx->saved_data["gain"].toDouble()};
}

// The gradient in x, [N, C, size[1], size[0]], from that of the output.
Tensor adjoint(const Tensor& g, const Tensor& f, const optional<Tensor>& fy, const Settings& s,
               const std::vector<SymInt>& size) {
  Settings back{s.down, s.up, {}, !s.flip, s.gain};
  for (int axis = 0; axis < 2; ++axis) {  // x, y
    const SymInt taps = axis == 0 ? f.sym_size(-1) : (fy.has_value() ? *fy : f).sym_size(0);
    push_adjoint_padding<SymInt>(back.padding, size[axis], g.sym_size(3 - axis), taps, s.up[axis], s.down[axis],
                                 s.padding[2 * axis]);
  }
  return call_upfirdn2d(g, f, fy, back);
}

struct Upfirdn2dFunction : torch::autograd::Function<Upfirdn2dFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& f, const optional<Tensor>& fy,
                        const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = call_upfirdn2d(x, f, fy, s);
    keep(ctx, s, x);
    ctx->set_materialize_grads(false);
    const bool learnt = f.requires_grad() || (fy.has_value() && fy->requires_grad());
    ctx->save_for_backward({learnt ? x : Tensor(), f, or_undefined(fy)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(4);
    const Tensor& g = grads[0];
    if (!g.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &f = saved[1];
    const optional<Tensor> fy = given(saved[2]);
    const bool want_f = ctx->needs_input_grad(1), want_fy = fy.has_value() && ctx->needs_input_grad(2);
    const Settings s = kept(ctx);
    if (ctx->needs_input_grad(0)) out[0] = adjoint(g, f, fy, s, kept_numbers(ctx, "size"));
    if (fy && (want_f || want_fy) && on_cpu(x)) {
      const auto [gf, gfy] = call_factor_grads(x, g, f, *fy, s, {want_f, want_fy});
      if (want_f) out[1] = gf.to(f.scalar_type());
      if (want_fy) out[2] = gfy.to(fy->scalar_type());
    } else if (want_f || want_fy) {
      const Tensor whole = call_filter_grad(x, g, {(fy ? *fy : f).sym_size(0), f.sym_size(-1)}, s);  // [KH, KW]
      const auto type = whole.scalar_type();
      if (want_f) out[1] = (fy ? (whole * fy->to(type).unsqueeze(1)).sum(0) : whole).to(f.scalar_type());
      if (want_fy) out[2] = (whole * f.to(type)).sum(1).to(fy->scalar_type());
    }
    return out;
  }
};

struct FilterGradFunction : torch::autograd::Function<FilterGradFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& g, SymIntArrayRef taps,
                        const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor out = call_filter_grad(x, g, taps, s);
    keep(ctx, s, x);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({x, g});
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(4);
    const Tensor& cotangent = grads[0];  // [KH, KW]
    if (!cotangent.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Settings s = kept(ctx);
    if (ctx->needs_input_grad(0)) out[0] = adjoint(saved[1], cotangent, {}, s, kept_numbers(ctx, "size"));
    if (ctx->needs_input_grad(1)) out[1] = call_upfirdn2d(saved[0], cotangent, {}, s);
    return out;
  }
};

// Linear in x, g and the factor that the other's gradient is not of.
struct FactorGradsFunction : torch::autograd::Function<FactorGradsFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& g, const Tensor& f,
                               const Tensor& fy, const Settings& s, std::array<bool, 2> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    const auto [gf, gfy] = call_factor_grads(x, g, f, fy, s, wanted);
    keep(ctx, s, x);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({x, g, f, fy});
    variable_list unwanted;
    if (!wanted[0]) unwanted.push_back(gf);
    if (!wanted[1]) unwanted.push_back(gfy);
    ctx->mark_non_differentiable(unwanted);
    return {gf, gfy};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(6);
    const Tensor &cf = grads[0], &cfy = grads[1];
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &g = saved[1], &f = saved[2], &fy = saved[3];
    const Settings s = kept(ctx);
    // What pairs (cf, fy) and (f, cfy) of factors give, in sum.
    const auto both = [&](auto part) {
      if (!cf.defined()) return part(f, cfy);
      return cfy.defined() ? part(cf, fy) + part(f, cfy) : part(cf, fy);
    };
    if (!cf.defined() && !cfy.defined()) return out;
    if (ctx->needs_input_grad(0)) {
      const auto size = kept_numbers(ctx, "size");
      out[0] = both([&](const Tensor& a, const Tensor& b) { return adjoint(g, a, b, s, size); });
    }
    if (ctx->needs_input_grad(1))
      out[1] = both([&](const Tensor& a, const Tensor& b) { return call_upfirdn2d(x, a, b, s); });
    if (ctx->needs_input_grad(2) && cfy.defined())
      out[2] = std::get<0>(call_factor_grads(x, g, f, cfy, s, {true, false})).to(f.scalar_type());
    if (ctx->needs_input_grad(3) && cf.defined())
      out[3] = std::get<1>(call_factor_grads(x, g, cf, fy, s, {false, true})).to(fy.scalar_type());
    return out;
  }
};

Settings settings(SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef padding, bool flip, double gain) {
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, "upfirdn2d: got ", up.size(), " factors up, ",
              down.size(), " down and ", padding.size(), " paddings, expected [x, y] twice and [x0, x1, y0, y1]");
  return {up.vec(), down.vec(), padding.vec(), flip, gain};
}

Tensor upfirdn2d_autograd(const Tensor& x, const Tensor& f, const optional<Tensor>& fy, SymIntArrayRef up,
                          SymIntArrayRef down, SymIntArrayRef padding, bool flip, double gain) {
  return Upfirdn2dFunction::apply(x, f, fy, settings(up, down, padding, flip, gain));
}

Tensor filter_grad_autograd(const Tensor& x, const Tensor& g, SymIntArrayRef taps, SymIntArrayRef up,
                            SymIntArrayRef down, SymIntArrayRef padding, bool flip, double gain) {
  return FilterGradFunction::apply(x, g, taps, settings(up, down, padding, flip, gain));
}

std::tuple<Tensor, Tensor> factor_grads_autograd(const Tensor& x, const Tensor& g, const Tensor& f, const Tensor& fy,
                                                 SymIntArrayRef up, SymIntArrayRef down, SymIntArrayRef padding,
                                                 bool flip, double gain, std::array<bool, 2> wanted) {
  const auto out = FactorGradsFunction::apply(x, g, f, fy, settings(up, down, padding, flip, gain), wanted);
  return {out[0], out[1]};
}

}  // namespace

// upfirdn2d_factor_grads: the gradients in f [KW] and fy [KH], what `wanted` leaves out empty; on the CPU only.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "upfirdn2d(Tensor x, Tensor f, Tensor? fy, SymInt[] up, SymInt[] down, SymInt[] padding, bool flip, float gain) "
      "-> Tensor");
  m.def(
      "upfirdn2d_filter_grad(Tensor x, Tensor g, SymInt[] taps, SymInt[] up, SymInt[] down, SymInt[] padding, "
      "bool flip, float gain) -> Tensor");
  m.def(
      "upfirdn2d_factor_grads(Tensor x, Tensor g, Tensor f, Tensor fy, SymInt[] up, SymInt[] down, SymInt[] padding, "
      "bool flip, float gain, bool[2] wanted) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("upfirdn2d", &upfirdn2d_autograd);
  m.impl("upfirdn2d_filter_grad", &filter_grad_autograd);
  m.impl("upfirdn2d_factor_grads", &factor_grads_autograd);
}

}  // namespace gk
