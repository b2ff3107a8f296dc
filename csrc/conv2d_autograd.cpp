// conv2d and conv_transpose2d: schemas and derivatives, for every device that has kernels.
//
// Both are two thirds of one trilinear form, whose indices meet as large row = small row * stride + tap * dilation -
// padding:
//
//   sum over n, q, o, i, t of  small[n, o, q] * weight[o, i, t] * large[n, i, q * stride + t * dilation - padding]
//
// conv2d is its derivative by `small`, conv_transpose2d by `large`, conv2d_weight_grad by `weight`. So the derivative
// of each by one of its operands is another of the three, of any order, one call each.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <vector>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Ints = std::vector<int64_t>;
using SymInts = std::vector<c10::SymInt>;

enum Part { kSmall, kWeight, kLarge };

// The two parts that an operator of each result takes, in the order of its schema.
constexpr std::array<std::array<Part, 2>, 3> kOperands = {{{kLarge, kWeight}, {kSmall, kLarge}, {kSmall, kWeight}}};

using Convolution = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, at::IntArrayRef, at::IntArrayRef,
                           at::IntArrayRef, int64_t, c10::SymIntArrayRef);
using WeightGrad = Tensor(const Tensor&, const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                          c10::SymIntArrayRef);

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Differentiates the form by `part`. `size` is the two spatial sizes of the result.
Tensor contract(Part part, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef size) {
  static const auto conv2d = find<Convolution>("gankernels_native::conv2d");
  static const auto transpose = find<Convolution>("gankernels_native::conv_transpose2d");
  static const auto weight_grad = find<WeightGrad>("gankernels_native::conv2d_weight_grad");
  if (part == kWeight) return weight_grad.call(a, b, stride, padding, dilation, groups, size);
  return (part == kSmall ? conv2d : transpose).call(a, b, bias, stride, padding, dilation, groups, size);
}

template <Part result>
class Contract : public torch::autograd::Function<Contract<result>> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias,
                        at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                        c10::SymIntArrayRef size) {
    // Each operand serves the other's gradient alone: a frozen weight keeps no activations.
    ctx->save_for_backward({b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor()});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["dilation"] = dilation;
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["bias"] = bias.has_value() && bias->defined();
    ctx->saved_data["a_size"] = a.sym_sizes().slice(2);
    ctx->saved_data["b_size"] = b.sym_sizes().slice(2);
    at::AutoDispatchBelowADInplaceOrView below;
    return contract(result, a, b, bias, stride, padding, dilation, groups, size);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    std::array<Tensor, 3> parts;
    parts[result] = grads[0];
    parts[kOperands[result][0]] = saved[0];
    parts[kOperands[result][1]] = saved[1];
    variable_list out(8);
    for (const int k : {0, 1}) {
      if (!ctx->needs_input_grad(k)) continue;
      const Part wanted = kOperands[result][k];
      const SymInts size = ctx->saved_data[k == 0 ? "a_size" : "b_size"].toSymIntVector();
      out[k] = contract(wanted, parts[kOperands[wanted][0]], parts[kOperands[wanted][1]], std::nullopt,
                        ctx->saved_data["stride"].toIntVector(), ctx->saved_data["padding"].toIntVector(),
                        ctx->saved_data["dilation"].toIntVector(), ctx->saved_data["groups"].toInt(), size);
    }
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) out[2] = grads[0].sum({0, 2, 3});
    return out;
  }
};

template <Part result>
Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                   at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef size) {
  return Contract<result>::apply(x, weight, bias, stride, padding, dilation, groups, size);
}

Tensor weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef kernel) {
  return Contract<kWeight>::apply(small, large, std::optional<Tensor>(), stride, padding, dilation, groups, kernel);
}

}  // namespace

// `size` and `kernel` are the two spatial sizes of the result; conv2d_weight_grad's result is [C of small, C of large /
// groups, *kernel], which is the weight of both convolutions.
TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "SymInt[2] size) -> Tensor");
  m.def(
      "conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, SymInt[2] size) -> Tensor");
  m.def(
      "conv2d_weight_grad(Tensor small, Tensor large, int[2] stride, int[2] padding, int[2] dilation, int groups, "
      "SymInt[2] kernel) -> Tensor");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("conv2d", &convolution<kSmall>);
  m.impl("conv_transpose2d", &convolution<kLarge>);
  m.impl("conv2d_weight_grad", &weight_grad);
}
