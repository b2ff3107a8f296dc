// conv2d, conv_transpose2d and conv2d_weight_grad on CUDA tensors: PyTorch's kernels (cuDNN) under our derivatives.
// Nothing here is compiled by nvcc; the same calls run on CPU tensors, which is how they are tested.
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "conv2d_op.h"

namespace gk::conv {
namespace {

bool tf32(at::Float32Op op) {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, op) == at::Float32Precision::TF32;
}

// IEEE unless both of PyTorch's switches allow TF32: that of convolutions alone is on by default.
bool allows_tf32() { return tf32(at::Float32Op::CONV) && tf32(at::Float32Op::MATMUL); }

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& g,
                   bool transposed, at::IntArrayRef extra) {
  const at::Context& context = at::globalContext();
  return at::_convolution(x, weight, bias, g.stride, g.padding, g.dilation, transposed, extra, g.groups,
                          context.benchmarkCuDNN(), context.deterministicCuDNN() || context.deterministicAlgorithms(),
                          context.userEnabledCuDNN(), allows_tf32());
}

Tensor convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef size) {
  const Geometry g = check(x, weight, bias, stride, padding, dilation, groups, size);
  const at::MemoryFormat format = format_of(x, weight);
  if (any_empty(x, weight) || size[0] * size[1] == 0)
    return empty_result({x.size(0), weight.size(0), size[0], size[1]}, x, bias, format);
  const Tensor y = convolution(x, weight, bias, g, false, {0, 0});
  return y.narrow(2, 0, size[0]).narrow(3, 0, size[1]).contiguous(format);
}

Tensor transpose(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, at::IntArrayRef stride,
                 at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, at::IntArrayRef size) {
  const Geometry g = check_transpose(x, weight, bias, stride, padding, dilation, groups, size);
  const at::MemoryFormat format = format_of(x, weight);
  if (any_empty(x, weight) || size[0] * size[1] == 0)
    return empty_result({x.size(0), weight.size(1) * groups, size[0], size[1]}, x, bias, format);
  return convolution(x, weight, bias, g, true, output_padding(x, weight, g, size)).contiguous(format);
}

// cuBLAS in place of cuDNN, whose weight gradient has no precision of its own: a product for each tap, over the pixels
// of all images, of `small` and of `large` as that tap sees it.
Tensor tap_products(const Tensor& small, const Tensor& large, const Geometry& g, at::IntArrayRef kernel) {
  const int64_t n = small.size(0), h = small.size(2), w = small.size(3), pixels = n * h * w;
  const int64_t out = small.size(1) / g.groups, in = large.size(1) / g.groups;
  const Tensor padded = at::constant_pad_nd(large, {g.padding[1], g.padding[1], g.padding[0], g.padding[0]});
  const auto flat = [&](const Tensor& t, int64_t channels) {  // [groups, channels, pixels]
    return t.transpose(0, 1).reshape({g.groups, channels, pixels});
  };
  const Tensor left = flat(small, out);
  std::vector<Tensor> taps;
  for (int64_t y = 0; y < kernel[0]; ++y)
    for (int64_t x = 0; x < kernel[1]; ++x) {
      const int64_t top = y * g.dilation[0], start = x * g.dilation[1];
      const Tensor seen = padded.slice(2, top, top + (h - 1) * g.stride[0] + 1, g.stride[0])
                              .slice(3, start, start + (w - 1) * g.stride[1] + 1, g.stride[1]);
      taps.push_back(at::bmm(left, flat(seen, in).transpose(1, 2)));
    }
  return at::stack(taps, -1).view({small.size(1), in, kernel[0], kernel[1]});
}

Tensor weight_grad(const Tensor& small, const Tensor& large, at::IntArrayRef stride, at::IntArrayRef padding,
                   at::IntArrayRef dilation, int64_t groups, at::IntArrayRef kernel) {
  const Geometry g = check_weight_grad(small, large, stride, padding, dilation, groups, kernel);
  const at::MemoryFormat format = format_of(small, large);
  const std::vector<int64_t> size{small.size(1), large.size(1) / groups, kernel[0], kernel[1]};
  if (any_empty(small, large) || kernel[0] * kernel[1] == 0) return empty_result(size, small, std::nullopt, format);
  if (small.scalar_type() == at::kFloat && tf32(at::Float32Op::CONV) && !tf32(at::Float32Op::MATMUL))
    return tap_products(small, large, g, kernel).contiguous(format);
  const Tensor shape = at::empty(size, small.options().memory_format(format));
  const auto grads = at::convolution_backward(whole(small, large, g, kernel), large, shape, std::nullopt, stride,
                                              padding, dilation, false, {0, 0}, groups, {false, true, false});
  return std::get<1>(grads).contiguous(format);
}

}  // namespace
}  // namespace gk::conv

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("conv2d", &gk::conv::convolve);
  m.impl("conv_transpose2d", &gk::conv::transpose);
  m.impl("conv2d_weight_grad", &gk::conv::weight_grad);
}
