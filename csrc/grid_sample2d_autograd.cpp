// Schema and autograd of grid_sample2d. Three operators close under differentiation of any order (grid_sample2d.h has
// what `along` does): the samples, their adjoint in x, and the products of gy with the four pixels of a sample, summed
// over the channels, which are the derivatives in the grid.
#include <ATen/TensorOperators.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Settings {
  int64_t mode, padding;
  bool align;
};

// Samples of x [N, C, H, W] at the grid: [N, C, size].
Tensor call_sample(const Tensor& x, const Tensor& grid, const optional<Tensor>& along, SymIntArrayRef size,
                   const Settings& s) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const optional<Tensor>&, SymIntArrayRef, int64_t, int64_t, bool)>(
          "gankernels_native::grid_sample2d");
  return op.call(x, grid, along, size, s.mode, s.padding, s.align);
}

// The adjoint of call_sample in x, which has [H, W] = size.
Tensor call_adjoint(const Tensor& gy, const Tensor& grid, const optional<Tensor>& along, SymIntArrayRef size,
                    const Settings& s) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const optional<Tensor>&, SymIntArrayRef, int64_t, int64_t, bool)>(
          "gankernels_native::grid_sample2d_adjoint");
  return op.call(gy, grid, along, size, s.mode, s.padding, s.align);
}

// [N, OH, OW, 2] in float32 or float64: the derivatives of <gy, samples> in the grid; `mixed`: [N, OH, OW, 1], the
// mixed ones.
Tensor call_products(const Tensor& gy, const Tensor& x, const Tensor& grid, bool mixed, const Settings& s) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, const Tensor&, bool, int64_t, int64_t, bool)>(
      "gankernels_native::grid_sample2d_products");
  return op.call(gy, x, grid, mixed, s.mode, s.padding, s.align);
}

void keep(AutogradContext* ctx, const Settings& s, SymIntArrayRef size) {
  ctx->saved_data["mode"] = s.mode;
  ctx->saved_data["padding"] = s.padding;
  ctx->saved_data["align"] = s.align;
  ctx->saved_data["size"] = size;
  ctx->set_materialize_grads(false);
}
Settings kept(AutogradContext* ctx) {
  return {ctx->saved_data["mode"].toInt(), ctx->saved_data["padding"].toInt(), ctx->saved_data["align"].toBool()};
}
std::vector<SymInt> kept_size(AutogradContext* ctx) { return ctx->saved_data["size"].to<std::vector<SymInt>>(); }

bool is_mixed(const Tensor& along) { return along.sym_size(3) == 1; }

// The gradients of <gy, samples of x> in grid and along: those of <x, adjoint of gy> too.
void place_gradients(AutogradContext* ctx, const Tensor& gy, const Tensor& x, const Tensor& grid, const Tensor& along,
                     const Settings& s, variable_list& out) {
  if (ctx->needs_input_grad(1)) {
    TORCH_CHECK(grid.dim() == 4,
                "grid_sample2d: the gradient of an affine grid is asked for, but theta needed none when "
                "the samples were taken");
    if (s.mode != 0 || (along.defined() && is_mixed(along)))
      out[1] = at::zeros_like(grid);
    else if (along.defined())
      out[1] = (along.flip(-1) * call_products(gy, x, grid, true, s)).to(grid.scalar_type());
    else
      out[1] = call_products(gy, x, grid, false, s).to(grid.scalar_type());
  }
  if (along.defined() && ctx->needs_input_grad(2)) out[2] = call_products(gy, x, grid, is_mixed(along), s);
}

struct Sample : torch::autograd::Function<Sample> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& grid, const optional<Tensor>& along,
                        SymIntArrayRef size, const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor y = call_sample(x, grid, along, size, s);
    keep(ctx, s, {x.sym_size(2), x.sym_size(3)});
    const bool places = grid.requires_grad() || (along.has_value() && along->requires_grad());
    ctx->save_for_backward({places ? x : Tensor(), grid, or_undefined(along)});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(5);
    const Tensor& gy = grads[0];
    if (!gy.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Settings s = kept(ctx);
    if (ctx->needs_input_grad(0)) out[0] = call_adjoint(gy, saved[1], given(saved[2]), kept_size(ctx), s);
    if (saved[0].defined()) place_gradients(ctx, gy, saved[0], saved[1], saved[2], s, out);
    return out;
  }
};

struct Adjoint : torch::autograd::Function<Adjoint> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gy, const Tensor& grid, const optional<Tensor>& along,
                        SymIntArrayRef size, const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor gx = call_adjoint(gy, grid, along, size, s);
    keep(ctx, s, {gy.sym_size(2), gy.sym_size(3)});
    const bool places = grid.requires_grad() || (along.has_value() && along->requires_grad());
    ctx->save_for_backward({places ? gy : Tensor(), grid, or_undefined(along)});
    return gx;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(5);
    const Tensor& v = grads[0];
    if (!v.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Settings s = kept(ctx);
    if (ctx->needs_input_grad(0)) out[0] = call_sample(v, saved[1], given(saved[2]), kept_size(ctx), s);
    if (saved[0].defined()) place_gradients(ctx, saved[0], v, saved[1], saved[2], s, out);
    return out;
  }
};

struct Products : torch::autograd::Function<Products> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gy, const Tensor& x, const Tensor& grid, bool mixed,
                        const Settings& s) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor out = call_products(gy, x, grid, mixed, s);
    keep(ctx, s, {x.sym_size(2), x.sym_size(3)});
    ctx->save_for_backward({gy, x, grid});
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(5);
    const Tensor& v = grads[0];
    if (!v.defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const Tensor &gy = saved[0], &x = saved[1], &grid = saved[2];
    const Settings s = kept(ctx);
    if (ctx->needs_input_grad(0)) out[0] = call_sample(x, grid, v, {gy.sym_size(2), gy.sym_size(3)}, s);
    if (ctx->needs_input_grad(1)) out[1] = call_adjoint(gy, grid, v, kept_size(ctx), s);
    if (ctx->needs_input_grad(2))
      out[2] = s.mode != 0 || is_mixed(v) ? at::zeros_like(grid)
                                          : (v.flip(-1) * call_products(gy, x, grid, true, s)).to(grid.scalar_type());
    return out;
  }
};

Tensor sample_autograd(const Tensor& x, const Tensor& grid, const optional<Tensor>& along, SymIntArrayRef size,
                       int64_t mode, int64_t padding, bool align) {
  return Sample::apply(x, grid, along, size, Settings{mode, padding, align});
}
Tensor adjoint_autograd(const Tensor& gy, const Tensor& grid, const optional<Tensor>& along, SymIntArrayRef size,
                        int64_t mode, int64_t padding, bool align) {
  return Adjoint::apply(gy, grid, along, size, Settings{mode, padding, align});
}
Tensor products_autograd(const Tensor& gy, const Tensor& x, const Tensor& grid, bool mixed, int64_t mode,
                         int64_t padding, bool align) {
  return Products::apply(gy, x, grid, mixed, Settings{mode, padding, align});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "grid_sample2d(Tensor x, Tensor grid, Tensor? along, SymInt[] size, int mode, int padding, bool align) -> "
      "Tensor");
  m.def(
      "grid_sample2d_adjoint(Tensor gy, Tensor grid, Tensor? along, SymInt[] size, int mode, int padding, bool align) "
      "-> Tensor");
  m.def(
      "grid_sample2d_products(Tensor gy, Tensor x, Tensor grid, bool mixed, int mode, int padding, bool align) -> "
      "Tensor");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("grid_sample2d", &sample_autograd);
  m.impl("grid_sample2d_adjoint", &adjoint_autograd);
  m.impl("grid_sample2d_products", &products_autograd);
}

}  // namespace gk
