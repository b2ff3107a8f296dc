// What the CPU and CUDA sides of batch_norm_act share: the kinds of normalisation, and checks of their tensors.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/DimVector.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bias_act_op.h"

namespace gk {

// What one mean is of, and what one weight and bias are of.
enum class NormAffine { channel, cell, element };

// How numbers lie against x: [C]; [N, C], one a sample and channel; or, for weight and bias, the shape of x: the weight
// is then 1 + scale.
struct NormKind {
  bool instance;  // statistics of each sample
  NormAffine affine;

  bool cells() const { return instance || affine == NormAffine::cell; }
  at::DimVector sets(const at::Tensor& x) const { return shape(x, instance); }
  at::DimVector numbers(const at::Tensor& x) const {
    return affine == NormAffine::element ? at::DimVector(x.sizes()) : shape(x, cells());
  }
  static at::DimVector shape(const at::Tensor& x, bool cells) {
    return cells ? at::DimVector{x.size(0), x.size(1)} : at::DimVector{x.size(1)};
  }
};

inline NormKind norm_kind(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                          const std::optional<at::Tensor>& bias, bool instance) {
  TORCH_CHECK_VALUE(x.dim() >= 2, "batch_norm_act: x has shape ", x.sizes(), ", expected [N, C, ...]");
  const int64_t dim = weight.has_value() ? weight->dim() : bias.has_value() ? bias->dim() : 1;
  if (dim > 2) return {instance, NormAffine::element};
  return {instance, dim == 2 || instance ? NormAffine::cell : NormAffine::channel};
}

inline void check_whole(const char* name, const std::optional<at::Tensor>& t, const at::Tensor& x) {
  if (!t.has_value()) return;
  TORCH_CHECK_VALUE(t->sizes() == x.sizes(), "batch_norm_act: ", name, " has shape ", t->sizes(), ", expected ",
                    x.sizes());
  check_like("batch_norm_act", name, *t, x);
}

// Numbers of a shape; `exact` asks for the dtype that the sums of x have, else any floating one serves.
inline void check_numbers(const char* name, const std::optional<at::Tensor>& t, const at::Tensor& x,
                          at::IntArrayRef shape, bool exact = false) {
  if (!t.has_value()) return;
  TORCH_CHECK_VALUE(t->sizes() == shape, "batch_norm_act: ", name, " has shape ", t->sizes(), ", expected ", shape);
  TORCH_CHECK_VALUE(t->device() == x.device() && at::isFloatingType(t->scalar_type()), "batch_norm_act: ", name, " is ",
                    t->scalar_type(), " on ", t->device(), ", expected floating point on ", x.device());
  TORCH_CHECK_VALUE(!exact || t->scalar_type() == at::toOpMathType(x.scalar_type()), "batch_norm_act: ", name, " is ",
                    t->scalar_type(), ", expected ", at::toOpMathType(x.scalar_type()));
}

inline void check_affine(const char* name, const std::optional<at::Tensor>& t, const at::Tensor& x,
                         const NormKind& kind) {
  if (kind.affine == NormAffine::element) return check_whole(name, t, x);
  check_numbers(name, t, x, kind.numbers(x));
}

inline NormKind check_forward(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                              const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& running_mean,
                              const std::optional<at::Tensor>& running_var, bool training, bool instance = false) {
  const NormKind kind = norm_kind(x, weight, bias, instance);
  check_affine("weight", weight, x, kind);
  check_affine("bias", bias, x, kind);
  check_numbers("running_mean", running_mean, x, kind.sets(x));
  check_numbers("running_var", running_var, x, kind.sets(x));
  TORCH_CHECK_VALUE(training || (running_mean.has_value() && running_var.has_value()),
                    "batch_norm_act: running_mean and running_var are None, expected tensors when not training");
  return kind;
}

// Statistics of each sample where mean is [N, C].
inline NormKind check_backward(const at::Tensor& gy, const at::Tensor& x, const std::optional<at::Tensor>& weight,
                               const std::optional<at::Tensor>& bias, const at::Tensor& mean,
                               const at::Tensor& invstd) {
  const NormKind kind = norm_kind(x, weight, bias, mean.dim() == 2);
  check_affine("weight", weight, x, kind);
  check_affine("bias", bias, x, kind);
  check_numbers("mean", mean, x, kind.sets(x), true);
  check_numbers("invstd", invstd, x, kind.sets(x), true);
  check_whole("gy", gy, x);
  return kind;
}

inline NormKind check_double_backward(const std::optional<at::Tensor>& v, const std::optional<at::Tensor>& p,
                                      const std::optional<at::Tensor>& q, const at::Tensor& gy, const at::Tensor& x,
                                      const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                                      const at::Tensor& mean, const at::Tensor& invstd) {
  const NormKind kind = check_backward(gy, x, weight, bias, mean, invstd);
  check_whole("v", v, x);
  check_affine("p", p, x, kind);
  check_affine("q", q, x, kind);
  return kind;
}

inline at::Tensor maybe_empty(bool wanted, const at::Tensor& like) {
  return wanted ? at::empty_like(like) : at::empty({0}, like.options());
}

}  // namespace gk
