// What the CPU and CUDA sides of batch_norm_act share: checks of its tensors.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bias_act_op.h"

namespace gk {

inline void check_whole(const char* name, const std::optional<at::Tensor>& t, const at::Tensor& x) {
  if (!t.has_value()) return;
  TORCH_CHECK_VALUE(t->sizes() == x.sizes(), "batch_norm_act: ", name, " has shape ", t->sizes(), ", expected ",
                    x.sizes());
  check_like("batch_norm_act", name, *t, x);
}

// A number a channel; `exact` asks for the dtype that the sums of x have, else any floating one serves.
inline void check_channels(const char* name, const std::optional<at::Tensor>& t, const at::Tensor& x,
                           bool exact = false) {
  if (!t.has_value()) return;
  TORCH_CHECK_VALUE(t->dim() == 1 && t->size(0) == x.size(1), "batch_norm_act: ", name, " has shape ", t->sizes(),
                    ", expected [", x.size(1), "]");
  TORCH_CHECK_VALUE(t->device() == x.device() && at::isFloatingType(t->scalar_type()), "batch_norm_act: ", name, " is ",
                    t->scalar_type(), " on ", t->device(), ", expected floating point on ", x.device());
  TORCH_CHECK_VALUE(!exact || t->scalar_type() == at::toOpMathType(x.scalar_type()), "batch_norm_act: ", name, " is ",
                    t->scalar_type(), ", expected ", at::toOpMathType(x.scalar_type()));
}

inline void check_parameters(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& bias) {
  TORCH_CHECK_VALUE(x.dim() >= 2, "batch_norm_act: x has shape ", x.sizes(), ", expected [N, C, ...]");
  check_channels("weight", weight, x);
  check_channels("bias", bias, x);
}

inline void check_forward(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                          const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& running_mean,
                          const std::optional<at::Tensor>& running_var, bool training) {
  check_parameters(x, weight, bias);
  check_channels("running_mean", running_mean, x);
  check_channels("running_var", running_var, x);
  TORCH_CHECK_VALUE(training || (running_mean.has_value() && running_var.has_value()),
                    "batch_norm_act: running_mean and running_var are None, expected tensors when not training");
}

inline void check_backward(const at::Tensor& gy, const at::Tensor& x, const std::optional<at::Tensor>& weight,
                           const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& invstd) {
  check_parameters(x, weight, bias);
  check_channels("mean", mean, x, true);
  check_channels("invstd", invstd, x, true);
  check_whole("gy", gy, x);
}

inline void check_double_backward(const std::optional<at::Tensor>& v, const std::optional<at::Tensor>& p,
                                  const std::optional<at::Tensor>& q, const at::Tensor& gy, const at::Tensor& x,
                                  const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                                  const at::Tensor& mean, const at::Tensor& invstd) {
  check_backward(gy, x, weight, bias, mean, invstd);
  check_whole("v", v, x);
  check_channels("p", p, x);
  check_channels("q", q, x);
}

inline at::Tensor maybe_empty(bool wanted, const at::Tensor& like) {
  return wanted ? at::empty_like(like) : at::empty({0}, like.options());
}

}  // namespace gk
