// conv_transpose2d_filter: a transposed convolution and a FIR filter of its result in one, for the CPU. Schema and
// derivatives, which are the two operators'.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "autograd.h"
#include "conv2d_filter.h"
#include "fir_adjoint.h"
#include "signatures.h"

namespace gk::conv {
namespace {

using at::Tensor;
using c10::SymInt;
using c10::SymIntArrayRef;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using SymInts = std::vector<SymInt>;

using Whole = Tensor(const Tensor&, const Tensor&, const Tensor&, const optional<Tensor>&, const optional<Tensor>&,
                     at::IntArrayRef, at::IntArrayRef, SymIntArrayRef, SymIntArrayRef, bool, double);

Tensor filter(const Tensor& x, const Tensor& f, const optional<Tensor>& fy, SymIntArrayRef padding, bool flip,
              double gain) {
  static const auto op = find<Resampling>("gankernels_native::upfirdn2d");
  const SymInts one{1, 1};
  return op.call(x, f, fy, one, one, padding, flip, gain);
}

struct FilteredFunction : torch::autograd::Function<FilteredFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& f,
                        const optional<Tensor>& fy, at::IntArrayRef stride, at::IntArrayRef padding,
                        SymIntArrayRef size, SymIntArrayRef filter_padding, bool flip, double gain) {
    ctx->save_for_backward(
        {weight.requires_grad() ? x : Tensor(), x.requires_grad() ? weight : Tensor(), f, or_undefined(fy)});
    ctx->saved_data["numbers"] = std::vector<int64_t>{stride[0], stride[1], padding[0], padding[1], int64_t(flip)};
    ctx->saved_data["sizes"] = SymInts{x.sym_size(2), x.sym_size(3), weight.sym_size(2), weight.sym_size(3),
                                       size[0],       size[1],       filter_padding[0],  filter_padding[2]};
    ctx->saved_data["gain"] = gain;
    return below(x, weight, f, fy, {}, stride, padding, size, filter_padding, flip, gain);
  }

  static Tensor below(const Tensor& x, const Tensor& weight, const Tensor& f, const optional<Tensor>& fy,
                      const optional<Tensor>& scale, at::IntArrayRef stride, at::IntArrayRef padding,
                      SymIntArrayRef size, SymIntArrayRef filter_padding, bool flip, double gain) {
    static const auto op = find<Whole>("gankernels_native::conv_transpose2d_filter");
    at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(x, weight, f, fy, scale, stride, padding, size, filter_padding, flip, gain);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto conv2d = find<Convolution>("gankernels_native::conv2d");
    static const auto weight_grad = find<WeightGrad>("gankernels_native::conv2d_weight_grad");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor& f = saved[2];
    const optional<Tensor> fy = given(saved[3]);
    const auto numbers = ctx->saved_data["numbers"].toIntVector();
    const at::IntArrayRef stride(numbers.data(), 2), padding(numbers.data() + 2, 2);
    const auto kept = ctx->saved_data["sizes"].toSymIntVector();
    const SymIntArrayRef sizes(kept);
    variable_list out(10);
    SymInts back;
    for (const int axis : {0, 1})  // x, y
      push_adjoint_padding<SymInt>(back, sizes[5 - axis], grads[0].sym_size(3 - axis),
                                   axis == 0 ? f.sym_size(-1) : (fy ? *fy : f).sym_size(0), 1, 1, sizes[6 + axis]);
    const Tensor g = filter(grads[0], f, fy, back, numbers[4] == 0, ctx->saved_data["gain"].toDouble());
    if (ctx->needs_input_grad(0))
      out[0] = conv2d.call(g, saved[1], std::nullopt, stride, padding, {1, 1}, 1, sizes.slice(0, 2));
    if (ctx->needs_input_grad(1)) out[1] = weight_grad.call(saved[0], g, stride, padding, {1, 1}, 1, sizes.slice(2, 2));
    return out;
  }
};

Tensor conv_transpose2d_filter(const Tensor& x, const Tensor& weight, const Tensor& f, const optional<Tensor>& fy,
                               const optional<Tensor>& scale, at::IntArrayRef stride, at::IntArrayRef padding,
                               SymIntArrayRef size, SymIntArrayRef filter_padding, bool flip, double gain) {
  TORCH_CHECK_VALUE(x.dim() == 4 && weight.dim() == 4 && stride.size() == 2 && padding.size() == 2 &&
                        size.size() == 2 && filter_padding.size() == 4,
                    "conv_transpose2d_filter: expected 4-D x and weight, two strides, paddings and sizes and a filter "
                    "padding of four, got ",
                    x.sizes(), weight.sizes(), stride, padding, size, filter_padding);
  const auto learnt = [](const optional<Tensor>& t) { return t.has_value() && t->requires_grad(); };
  const bool graph = at::GradMode::is_enabled();
  // Their gradients read what lies between convolution and filter, or after both.
  if (graph && (learnt(f) || learnt(fy) || learnt(scale) || (scale.has_value() && (learnt(x) || learnt(weight)))))
    return in_two(x, weight, f, fy, scale, stride, padding, size, filter_padding, flip, gain);
  if (graph && (learnt(x) || learnt(weight)))
    return FilteredFunction::apply(x, weight, f, fy, stride, padding, size, filter_padding, flip, gain);
  return FilteredFunction::below(x, weight, f, fy, scale, stride, padding, size, filter_padding, flip, gain);
}

}  // namespace

Tensor in_two(const Tensor& x, const Tensor& weight, const Tensor& f, const optional<Tensor>& fy,
              const optional<Tensor>& scale, at::IntArrayRef stride, at::IntArrayRef padding, SymIntArrayRef size,
              SymIntArrayRef filter_padding, bool flip, double gain) {
  static const auto transpose = find<Convolution>("gankernels_native::conv_transpose2d");
  const Tensor y = filter(transpose.call(x, weight, std::nullopt, stride, padding, {1, 1}, 1, size), f, fy,
                          filter_padding, flip, gain);
  if (!scale.has_value()) return y;
  return (y * scale->unsqueeze(-1).unsqueeze(-1)).to(y.scalar_type());
}

}  // namespace gk::conv

// Stride, padding and size are conv_transpose2d's, of one group; the filter's are upfirdn2d's. scale, [N, O],
// multiplies the result.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "conv_transpose2d_filter(Tensor x, Tensor weight, Tensor f, Tensor? fy, Tensor? scale, int[2] stride, "
      "int[2] padding, SymInt[2] size, SymInt[] filter_padding, bool flip, float gain) -> Tensor");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("conv_transpose2d_filter", &gk::conv::conv_transpose2d_filter);
}
