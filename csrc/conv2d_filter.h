// conv_transpose2d_filter as the two operators it joins.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace gk::conv {

// `scale`, [N, O], multiplies the result. Differentiable as far as those operators are.
at::Tensor in_two(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& f,
                  const std::optional<at::Tensor>& fy, const std::optional<at::Tensor>& scale, at::IntArrayRef stride,
                  at::IntArrayRef padding, c10::SymIntArrayRef size, c10::SymIntArrayRef filter_padding, bool flip,
                  double gain);

}  // namespace gk::conv
