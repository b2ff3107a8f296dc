// conv2d, conv_transpose2d and conv2d_weight_grad on the CPU: the float32 rule, and the choice of a route.
#include "cpu/conv2d.h"

#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;
using gk::conv::any_empty;
using gk::conv::empty_result;
using gk::conv::format_of;
using gk::conv::Geometry;
using gk::conv::Pair;

bool is_low(const Tensor& t) { return t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16; }

// One filter over a whole image and nothing more: a matrix product.
bool covers(const Geometry& g, at::IntArrayRef large, at::IntArrayRef kernel) {
  return g.groups == 1 && large == kernel && g.padding == Pair{0, 0} && g.dilation == Pair{1, 1};
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
  const Geometry g = gk::conv::check(x, weight, bias, stride, padding, dilation, groups, size);
  const at::MemoryFormat format = format_of(x, weight);
  if (is_low(x)) {
    const auto b = bias.has_value() ? std::make_optional(bias->to(at::kFloat)) : std::nullopt;
    return convolve(x.to(at::kFloat), weight.to(at::kFloat), b, stride, padding, dilation, groups, size)
        .to(x.scalar_type(), false, false, format);
  }
  const int64_t n = x.size(0), c = weight.size(0);
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
  const Geometry g = gk::conv::check_transpose(x, weight, bias, stride, padding, dilation, groups, size);
  const at::MemoryFormat format = format_of(x, weight);
  if (is_low(x)) {
    const auto b = bias.has_value() ? std::make_optional(bias->to(at::kFloat)) : std::nullopt;
    return transpose(x.to(at::kFloat), weight.to(at::kFloat), b, stride, padding, dilation, groups, size)
        .to(x.scalar_type(), false, false, format);
  }
  const int64_t n = x.size(0), c = weight.size(1) * groups;
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
    const Pair extra = gk::conv::output_padding(x, weight, g, size);
    y = at::convolution(x, weight, bias, stride, padding, dilation, true, extra, groups);
  }
  return y.contiguous(format);
}

Tensor weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, at::IntArrayRef kernel) {
  const Geometry g = gk::conv::check_weight_grad(small, large, stride, padding, dilation, groups, kernel);
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
  const Tensor whole = gk::conv::whole(small, large, g, kernel);
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
