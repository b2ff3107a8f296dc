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

#include "autograd.h"
#include "signatures.h"

namespace {

using at::Tensor;
using gk::Convolution;
using gk::find;
using gk::WeightGrad;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Ints = std::vector<int64_t>;
using SymInts = std::vector<c10::SymInt>;

enum Part { kSmall, kWeight, kLarge };

// The two parts that an operator of each result takes, in the order of its schema.
constexpr std::array<std::array<Part, 2>, 3> kOperands = {{{kLarge, kWeight}, {kSmall, kLarge}, {kSmall, kWeight}}};

// Differentiates the form by `part`. `size` is the two spatial sizes of the result.
Tensor contract(Part part, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef size) {
  static const auto conv2d = find<Convolution>("gankernels_native::conv2d");
  static const auto transpose = find<Convolution>("gankernels_native::conv_transpose2d");
  static const auto weight_grad = find<WeightGrad>("gankernels_native::conv2d_weight_grad");
  if (part == kWeight) return weight_grad.call(a, b, stride, padding, dilation, groups, size);
  return (part == kSmall ? conv2d : transpose).call(a, b, bias, stride, padding, dilation, groups, size);
}

// Stride, padding and dilation by axis, groups, and whether there is a bias: in one list, since each entry of a
// context's dictionary costs a microsecond of a call.
struct Numbers {
  at::IntArrayRef stride, padding, dilation;
  int64_t groups;
  bool bias;

  Ints list() const {
    return {stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups, int64_t(bias)};
  }
  static Numbers of(const Ints& v) {
    const at::IntArrayRef all(v);
    return {all.slice(0, 2), all.slice(2, 2), all.slice(4, 2), v[6], v[7] != 0};
  }
};

template <Part result>
class Contract : public torch::autograd::Function<Contract<result>> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias,
                        const Numbers& numbers, c10::SymIntArrayRef size) {
    // Each operand serves the other's gradient alone: a frozen weight keeps no activations.
    ctx->save_for_backward({b.requires_grad() ? a : Tensor(), a.requires_grad() ? b : Tensor()});
    ctx->saved_data["numbers"] = numbers.list();
    const auto a_size = a.sym_sizes(), b_size = b.sym_sizes();
    ctx->saved_data["sizes"] = SymInts{a_size[2], a_size[3], b_size[2], b_size[3]};
    return below(a, b, bias, numbers, size);
  }

  static Tensor below(const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias, const Numbers& numbers,
                      c10::SymIntArrayRef size) {
    at::AutoDispatchBelowADInplaceOrView guard;
    return contract(result, a, b, bias, numbers.stride, numbers.padding, numbers.dilation, numbers.groups, size);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const Ints list = ctx->saved_data["numbers"].toIntVector();
    const Numbers numbers = Numbers::of(list);
    const SymInts sizes = ctx->saved_data["sizes"].toSymIntVector();
    std::array<Tensor, 3> parts;
    parts[result] = grads[0];
    parts[kOperands[result][0]] = saved[0];
    parts[kOperands[result][1]] = saved[1];
    variable_list out(5);
    for (const int k : {0, 1}) {
      if (!ctx->needs_input_grad(k)) continue;
      const Part wanted = kOperands[result][k];
      out[k] = contract(wanted, parts[kOperands[wanted][0]], parts[kOperands[wanted][1]], std::nullopt, numbers.stride,
                        numbers.padding, numbers.dilation, numbers.groups, c10::SymIntArrayRef(sizes).slice(2 * k, 2));
    }
    if (numbers.bias && ctx->needs_input_grad(2)) out[2] = grads[0].sum({0, 2, 3});
    return out;
  }
};

template <Part result>
Tensor apply(const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias, at::IntArrayRef stride,
             at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef size) {
  const bool with_bias = bias.has_value() && bias->defined();
  const Numbers numbers{stride, padding, dilation, groups, with_bias};
  for (const auto& [name, pair] : {std::pair("stride", stride), {"padding", padding}, {"dilation", dilation}})
    TORCH_CHECK_VALUE(pair.size() == 2, name, ": expected two numbers, got ", pair);
  TORCH_CHECK_VALUE(a.dim() == 4 && b.dim() == 4, "conv2d: expected 4-D tensors, got ", a.sizes(), " and ", b.sizes());
  if (!at::GradMode::is_enabled() || !(a.requires_grad() || b.requires_grad() || (with_bias && bias->requires_grad())))
    return Contract<result>::below(a, b, bias, numbers, size);
  return Contract<result>::apply(a, b, bias, numbers, size);
}

Tensor weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, c10::SymIntArrayRef kernel) {
  return apply<kWeight>(small, large, std::nullopt, stride, padding, dilation, groups, kernel);
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
  m.impl("conv2d", &apply<kSmall>);
  m.impl("conv_transpose2d", &apply<kLarge>);
  m.impl("conv2d_weight_grad", &weight_grad);
}
