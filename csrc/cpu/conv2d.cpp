// conv2d, conv_transpose2d and conv2d_weight_grad on the CPU: checks, the float32 rule, and the choice of a route.
#include "cpu/conv2d.h"

#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;
using gk::conv::Geometry;
using gk::conv::Pair;

// Each by itself: a product of sizes of ordinary layers passes 2^64 and wraps to zero.
template <class... Tensors>
bool any_empty(const Tensors&... tensors) {
  return ((tensors.numel() == 0) || ...);
}

Pair pair(at::IntArrayRef v, const char* name) {
  TORCH_CHECK_VALUE(v.size() == 2, name, ": expected two numbers, got ", v);
  return {v[0], v[1]};
}

Geometry geometry(at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const Geometry g{pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"), groups};
  for (const int d : {0, 1}) {
    TORCH_CHECK_VALUE(g.stride[d] > 0 && g.dilation[d] > 0, "stride and dilation: expected positive, got ", stride,
                      " and ", dilation);
    TORCH_CHECK_VALUE(g.padding[d] >= 0, "padding: expected 0 or more, got ", padding);
  }
  TORCH_CHECK_VALUE(groups > 0, "groups: expected 1 or more, got ", groups);
  return g;
}

bool is_channels_last(const Tensor& t) { return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

// PyTorch's rule: channels_last as soon as one operand is.
at::MemoryFormat format_of(const Tensor& a, const Tensor& b) {
  return is_channels_last(a) || is_channels_last(b) ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

bool is_low(const Tensor& t) { return t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16; }

void check_pair(const Tensor& a, const Tensor& b, const char* name) {
  TORCH_CHECK_VALUE(a.dim() == 4 && b.dim() == 4, name, ": expected 4-D tensors, got ", a.sizes(), " and ", b.sizes());
  TORCH_CHECK_VALUE(a.scalar_type() == b.scalar_type(), name, ": dtypes differ: ", a.scalar_type(), " and ",
                    b.scalar_type());
}

void check_bias(const std::optional<Tensor>& bias, const Tensor& x, int64_t channels, const char* name) {
  if (!bias.has_value() || !bias->defined()) return;
  TORCH_CHECK_VALUE(bias->dim() == 1 && bias->size(0) == channels, name, ": bias has shape ", bias->sizes(),
                    ", expected [", channels, "]");
  TORCH_CHECK_VALUE(bias->scalar_type() == x.scalar_type() && bias->device() == x.device(), name, ": bias is ",
                    bias->scalar_type(), " on ", bias->device(), ", expected ", x.scalar_type(), " on ", x.device());
}

int64_t natural(const Geometry& g, int d, int64_t large, int64_t kernel) {
  return (large + 2 * g.padding[d] - g.dilation[d] * (kernel - 1) - 1) / g.stride[d] + 1;
}

// One filter over a whole image and nothing more: a matrix product.
bool covers(const Geometry& g, at::IntArrayRef large, at::IntArrayRef kernel) {
  return g.groups == 1 && large == kernel && g.padding == Pair{0, 0} && g.dilation == Pair{1, 1};
}

Tensor empty_result(at::IntArrayRef size, const Tensor& like, const std::optional<Tensor>& bias, at::MemoryFormat f) {
  Tensor y = at::zeros(size, like.options().memory_format(f));
  if (bias.has_value()) y += bias->view({-1, 1, 1});
  return y;
}

// A tensor to pass where only the shape is read. Its memory is kept and never touched: a fresh one for each call would
// take the pages that the result could have reused, and cost milliseconds.
Tensor shape_only(at::IntArrayRef size, const Tensor& like, at::MemoryFormat format) {
  thread_local Tensor kept;
  const int64_t bytes = c10::multiply_integers(size) * like.element_size();
  if (!kept.defined() || kept.numel() < bytes) kept = at::empty({bytes}, like.options().dtype(at::kByte));
  const auto none = [hold = kept](void*) {};
  std::vector<int64_t> strides{size[1] * size[2] * size[3], size[2] * size[3], size[3], 1};
  if (format == at::MemoryFormat::ChannelsLast) strides = c10::get_channels_last_strides_2d(size);
  return at::from_blob(kept.mutable_data_ptr(), size, strides, none, like.options());
}

Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef size) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(size, "conv2d: size");
  check_pair(x, weight, "conv2d");
  TORCH_CHECK_VALUE(x.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0, "conv2d: x has ", x.size(1),
                    " channels, weight is ", weight.sizes(), " in ", groups, " groups");
  const at::MemoryFormat format = format_of(x, weight);
  if (is_low(x)) {
    const auto b = bias.has_value() ? std::make_optional(bias->to(at::kFloat)) : std::nullopt;
    return convolve(x.to(at::kFloat), weight.to(at::kFloat), b, stride, padding, dilation, groups, size)
        .to(x.scalar_type(), false, false, format);
  }
  const int64_t n = x.size(0), c = weight.size(0);
  check_bias(bias, x, c, "conv2d");
  for (const int d : {0, 1}) {
    const int64_t most = natural(g, d, x.size(2 + d), weight.size(2 + d));
    TORCH_CHECK_VALUE(size[d] >= 0 && size[d] <= std::max<int64_t>(most, 0), "conv2d: size is ", size,
                      ", expected at most ", most, " on axis ", d);
  }
  if (any_empty(x, weight) || size[0] * size[1] == 0) return empty_result({n, c, size[0], size[1]}, x, bias, format);
  Tensor y;
  if (covers(g, x.sizes().slice(2), weight.sizes().slice(2)) && size[0] * size[1] == 1) {
    const Tensor a = x.contiguous().view({n, -1}), b = weight.contiguous().view({c, -1}).t();
    y = (bias.has_value() ? at::addmm(*bias, a, b) : at::mm(a, b)).view({n, c, 1, 1});
  } else if (g.stride != Pair{1, 1} && gk::conv::product_pays(x, weight.sizes(), n, size, g, format)) {
    y = gk::conv::product(x, weight, bias, g, size);
  } else if (gk::conv::direct_pays(x, weight, g, size, false, format)) {
    y = gk::conv::direct(x.contiguous(), weight, bias, g, size, false);
  } else {
    y = at::convolution(x, weight, bias, stride, padding, dilation, false, {0, 0}, groups);
    y = y.narrow(2, 0, size[0]).narrow(3, 0, size[1]);
  }
  return y.contiguous(format);
}

Tensor transpose(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                 at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef size) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(size, "conv_transpose2d: size");
  check_pair(x, weight, "conv_transpose2d");
  TORCH_CHECK_VALUE(x.size(1) == weight.size(0) && weight.size(0) % groups == 0, "conv_transpose2d: x has ", x.size(1),
                    " channels, weight is ", weight.sizes(), " in ", groups, " groups");
  const at::MemoryFormat format = format_of(x, weight);
  if (is_low(x)) {
    const auto b = bias.has_value() ? std::make_optional(bias->to(at::kFloat)) : std::nullopt;
    return transpose(x.to(at::kFloat), weight.to(at::kFloat), b, stride, padding, dilation, groups, size)
        .to(x.scalar_type(), false, false, format);
  }
  const int64_t n = x.size(0), c = weight.size(1) * groups;
  check_bias(bias, x, c, "conv_transpose2d");
  for (const int d : {0, 1})
    TORCH_CHECK_VALUE(size[d] >= 0 && natural(g, d, size[d], weight.size(2 + d)) >= x.size(2 + d),
                      "conv_transpose2d: size is ", size, ", too small on axis ", d, " for x of ", x.sizes());
  if (any_empty(x, weight) || size[0] * size[1] == 0) return empty_result({n, c, size[0], size[1]}, x, bias, format);
  Tensor y;
  if (covers(g, size, weight.sizes().slice(2)) && x.size(2) * x.size(3) == 1) {
    y = at::mm(x.contiguous().view({n, -1}), weight.contiguous().view({x.size(1), -1})).view({n, c, size[0], size[1]});
    if (bias.has_value()) y += bias->view({-1, 1, 1});
  } else if (g.stride != Pair{1, 1} && gk::conv::product_pays(x, weight.sizes(), n, x.sizes().slice(2), g, format)) {
    y = gk::conv::product_transpose(x, weight, bias, g, size);
  } else if (gk::conv::direct_pays(x, weight, g, size, true, format)) {
    y = gk::conv::direct(x.contiguous(), weight, bias, g, size, true);
  } else {
    Pair extra;
    for (const int d : {0, 1})
      extra[d] =
          size[d] - ((x.size(2 + d) - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.size(2 + d) - 1) + 1);
    y = at::convolution(x, weight, bias, stride, padding, dilation, true, extra, groups);
  }
  return y.contiguous(format);
}

Tensor weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, at::IntArrayRef kernel) {
  const Geometry g = geometry(stride, padding, dilation, groups);
  pair(kernel, "conv2d_weight_grad: kernel");
  check_pair(small, large, "conv2d_weight_grad");
  TORCH_CHECK_VALUE(small.size(0) == large.size(0) && small.size(1) % groups == 0 && large.size(1) % groups == 0,
                    "conv2d_weight_grad: ", small.sizes(), " and ", large.sizes(), " in ", groups, " groups");
  const at::MemoryFormat format = format_of(small, large);
  if (is_low(small))
    return weight_grad(small.to(at::kFloat), large.to(at::kFloat), stride, padding, dilation, groups, kernel)
        .to(small.scalar_type(), false, false, format);
  const int64_t n = small.size(0), c = small.size(1), i = large.size(1) / groups;
  const Pair area{small.size(2), small.size(3)};
  if (any_empty(small, large) || kernel[0] * kernel[1] == 0)
    return empty_result({c, i, kernel[0], kernel[1]}, small, std::nullopt, format);
  if (covers(g, large.sizes().slice(2), kernel) && area[0] * area[1] == 1)
    return at::mm(small.contiguous().view({n, c}).t(), large.contiguous().view({n, -1}))
        .view({c, i, kernel[0], kernel[1]})
        .contiguous(format);
  if (gk::conv::product_pays(small, {c, i, kernel[0], kernel[1]}, n, area, g, format))
    return gk::conv::product_weight_grad(small, large, g, kernel);
  // An output_padding of a stride or more leaves rows of `large` that `small` could have but has not: those are zero.
  const Pair full{natural(g, 0, large.size(2), kernel[0]), natural(g, 1, large.size(3), kernel[1])};
  const Tensor whole = full == area ? small : at::constant_pad_nd(small, {0, full[1] - area[1], 0, full[0] - area[0]});
  const Tensor weight = shape_only({c, i, kernel[0], kernel[1]}, small, format);
  const auto grads = at::convolution_backward(whole, large, weight, std::nullopt, stride, padding, dilation, false,
                                              {0, 0}, groups, {false, true, false});
  return std::get<1>(grads).contiguous(format);
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("conv2d", &convolve);
  m.impl("conv_transpose2d", &transpose);
  m.impl("conv2d_weight_grad", &weight_grad);
}
