// Signatures of the operators that other operators call by name.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace gk {

// conv2d, conv_transpose2d
using Convolution = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
                               at::IntArrayRef, at::IntArrayRef, int64_t, c10::SymIntArrayRef);
// conv2d_weight_grad
using WeightGrad = at::Tensor(const at::Tensor&, const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                              int64_t, c10::SymIntArrayRef);
// upfirdn2d
using Resampling = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                              c10::SymIntArrayRef, c10::SymIntArrayRef, c10::SymIntArrayRef, bool, double);

}  // namespace gk
