// What the convolution kernels of every device share: the numbers of one call, its checks and sizes, with the indices
// of conv2d_autograd.cpp.
#pragma once
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <optional>

namespace gk::conv {

using at::Tensor;
using Pair = std::array<int64_t, 2>;  // [rows, columns]

struct Geometry {
  Pair stride, padding, dilation;
  int64_t groups;
};

// Each by itself: a product of sizes of ordinary layers passes 2^64 and wraps to zero.
template <class... Tensors>
bool any_empty(const Tensors&... tensors) {
  return ((tensors.numel() == 0) || ...);
}

inline Pair pair(at::IntArrayRef v, const char* name) {
  TORCH_CHECK_VALUE(v.size() == 2, name, ": expected two numbers, got ", v);
  return {v[0], v[1]};
}

inline Geometry geometry(at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const Geometry g{pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"), groups};
  for (const int d : {0, 1}) {
    TORCH_CHECK_VALUE(g.stride[d] > 0 && g.dilation[d] > 0, "stride and dilation: expected positive, got ", stride,
                      " and ", dilation);
    TORCH_CHECK_VALUE(g.padding[d] >= 0, "padding: expected 0 or more, got ", padding);
  }
  TORCH_CHECK_VALUE(groups > 0, "groups: expected 1 or more, got ", groups);
  return g;
}

inline bool is_channels_last(const Tensor& t) { return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

// PyTorch's rule: channels_last as soon as one operand is.
inline at::MemoryFormat format_of(const Tensor& a, const Tensor& b) {
  return is_channels_last(a) || is_channels_last(b) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

inline void check_pair(const Tensor& a, const Tensor& b, const char* name) {
  TORCH_CHECK_VALUE(a.dim() == 4 && b.dim() == 4, name, ": expected 4-D tensors, got ", a.sizes(), " and ", b.sizes());
  TORCH_CHECK_VALUE(a.scalar_type() == b.scalar_type(), name, ": dtypes differ: ", a.scalar_type(), " and ",
                    b.scalar_type());
}

inline void check_bias(const std::optional<Tensor>& bias, const Tensor& x, int64_t channels, const char* name) {
  if (!bias.has_value() || !bias->defined()) return;
  TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == channels, name, ": bias has shape ", bias->sizes(),
                    ", expected [", channels, "]");
  TORCH_CHECK_VALUE(bias->scalar_type() == x.scalar_type() && bias->device() == x.device(), name, ": bias is ",
                    bias->scalar_type(), " on ", bias->device(), ", expected ", x.scalar_type(), " on ", x.device());
}

inline int64_t natural(const Geometry& g, int d, int64_t large, int64_t kernel) {
  return (large + 2 * g.padding[d] - g.dilation[d] * (kernel - 1) - 1) / g.stride[d] + 1;
}

inline Geometry check(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef size) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(size, "conv2d: size");
  check_pair(x, weight, "conv2d");
  TORCH_CHECK_VALUE(x.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0, "conv2d: x has ", x.size(1),
                    " channels, weight is ", weight.sizes(), " in ", groups, " groups");
  check_bias(bias, x, weight.size(0), "conv2d");
  for (const int d : {0, 1}) {
    const int64_t most = natural(g, d, x.size(2 + d), weight.size(2 + d));
    TORCH_CHECK_VALUE(size[d] >= 0 && size[d] <= std::max<int64_t>(most, 0), "conv2d: size is ", size,
                      ", expected at most ", most, " on axis ", d);
  }
  return g;
}

inline Geometry check_transpose(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                                at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                                int64_t groups, at::IntArrayRef size) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(size, "conv_transpose2d: size");
  check_pair(x, weight, "conv_transpose2d");
  TORCH_CHECK_VALUE(x.size(1) == weight.size(0) && weight.size(0) % groups == 0, "conv_transpose2d: x has ", x.size(1),
                    " channels, weight is ", weight.sizes(), " in ", groups, " groups");
  check_bias(bias, x, weight.size(1) * groups, "conv_transpose2d");
  for (const int d : {0, 1})
    TORCH_CHECK_VALUE(size[d] >= 0 && natural(g, d, size[d], weight.size(2 + d)) >= x.size(2 + d),
                      "conv_transpose2d: size is ", size, ", too small on axis ", d, " for x of ", x.sizes());
  return g;
}

inline Geometry check_weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride,
                                  at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups,
                                  at::IntArrayRef kernel) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(kernel, "conv2d_weight_grad: kernel");
  check_pair(small, large, "conv2d_weight_grad");
  TORCH_CHECK_VALUE(small.size(0) == large.size(0) && small.size(1) % groups == 0 && large.size(1) % groups == 0,
                    "conv2d_weight_grad: ", small.sizes(), " and ", large.sizes(), " in ", groups, " groups");
  return g;
}

inline Tensor empty_result(at::IntArrayRef size, const Tensor& like, const std::optional<Tensor>& bias,
                           at::MemoryFormat f) {
  Tensor y = at::zeros(size, like.options().memory_format(f));
  if (bias.has_value()) y += bias->view({-1, 1, 1});
  return y;
}

// The output_padding that gives the transposed convolution its size.
inline Pair output_padding(const Tensor& x, const Tensor& weight, const Geometry& g, at::IntArrayRef size) {
  Pair extra;
  for (const int d : {0, 1})
    extra[d] =
        size[d] - ((x.size(2 + d) - 1) * g.stride[d] - 2 * g.padding[d] + g.dilation[d] * (weight.size(2 + d) - 1) + 1);
  return extra;
}

// `small` as large as `large` allows: an output_padding of a stride or more leaves rows of `large` that `small` could
// have but has not; those are zero.
inline Tensor whole(const Tensor& small, const Tensor& large, const Geometry& g, at::IntArrayRef kernel) {
  const Pair area{small.size(2), small.size(3)};
  const Pair full{natural(g, 0, large.size(2), kernel[0]), natural(g, 1, large.size(3), kernel[1])};
  return full == area ? small : at::constant_pad_nd(small, {0, full[1] - area[1], 0, full[0] - area[0]});
}

}  // namespace gk::conv
