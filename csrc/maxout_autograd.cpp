// Schema and autograd of maxout: the gradient is scattered to where an index says, and its own is gathered from there.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;

Pair call_value(const Tensor& x, int64_t pieces, int64_t dim, bool with_index) {
  static const auto op = find<Pair(const Tensor&, int64_t, int64_t, bool)>("gankernels_native::maxout");
  return op.call(x, pieces, dim, with_index);
}

// To the pieces that an index names (kScatter), or from them.
template <bool kScatter>
Tensor call_linear(const Tensor& t, const Tensor& index, int64_t pieces, int64_t dim) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, int64_t, int64_t)>(
      kScatter ? "gankernels_native::maxout_scatter" : "gankernels_native::maxout_gather");
  return op.call(t, index, pieces, dim);
}

void keep(AutogradContext* ctx, const Tensor& index, int64_t pieces, int64_t dim) {
  ctx->save_for_backward({index});
  ctx->saved_data["pieces"] = pieces;
  ctx->saved_data["dim"] = dim;
  ctx->set_materialize_grads(false);
}

template <bool kScatter>
Tensor transposed(AutogradContext* ctx, const variable_list& grads) {
  if (!grads[0].defined() || !ctx->needs_input_grad(0)) return {};
  return call_linear<!kScatter>(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["pieces"].toInt(),
                                ctx->saved_data["dim"].toInt());
}

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, int64_t pieces, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, index] = call_value(x, pieces, dim, true);
    ctx->mark_non_differentiable({index});
    keep(ctx, index, pieces, dim);
    return {y, index};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {transposed<false>(ctx, grads), Tensor(), Tensor()};
  }
};

template <bool kScatter>
struct LinearFunction : torch::autograd::Function<LinearFunction<kScatter>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& t, const Tensor& index, int64_t pieces, int64_t dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep(ctx, index, pieces, dim);
    return call_linear<kScatter>(t, index, pieces, dim);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {transposed<kScatter>(ctx, grads), Tensor(), Tensor(), Tensor()};
  }
};

Pair value(const Tensor& x, int64_t pieces, int64_t dim, bool with_index) {
  if (at::GradMode::is_enabled() && x.requires_grad()) {
    const auto out = ValueFunction::apply(x, pieces, dim);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_value(x, pieces, dim, with_index);
}

template <bool kScatter>
Tensor linear(const Tensor& t, const Tensor& index, int64_t pieces, int64_t dim) {
  return LinearFunction<kScatter>::apply(t, index, pieces, dim);
}

}  // namespace
}  // namespace gk

// The index, which of the pieces is largest, is uint8, or int32 for more than 256 pieces; empty where not wanted.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("maxout(Tensor x, int pieces, int dim, bool with_index) -> (Tensor, Tensor)");
  m.def("maxout_scatter(Tensor g, Tensor index, int pieces, int dim) -> Tensor");
  m.def("maxout_gather(Tensor v, Tensor index, int pieces, int dim) -> Tensor");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("maxout", &gk::value);
  m.impl("maxout_scatter", &gk::linear<true>);
  m.impl("maxout_gather", &gk::linear<false>);
}
