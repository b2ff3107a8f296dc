// What the CPU and CUDA kernels of spectral_norm share: the matrices of a list of weights, and checks.
//
// A weight is the matrix [rows, cols] of its first dimension by the others. The vectors u of all weights lie in one
// tensor, one after the other, so do the v; both, like the norms sigma, are of the dtype that sums have.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace gk {

struct Matrices {
  std::vector<int64_t> rows, cols, u_at, v_at;  // u_at, v_at: where a weight's vectors start
  int64_t u_size = 0, v_size = 0;

  explicit Matrices(at::TensorList weights) {
    for (const at::Tensor& w : weights) {
      TORCH_CHECK(w.dim() >= 2 && w.numel() > 0 && w.is_floating_point(), "spectral_norm: a weight is ",
                  w.scalar_type(), " ", w.sizes(), ", expected 2 or more dimensions of floating point, none of them 0");
      TORCH_CHECK(w.scalar_type() == weights[0].scalar_type() && w.device() == weights[0].device(),
                  "spectral_norm: a weight is ", w.scalar_type(), " on ", w.device(), ", expected ",
                  weights[0].scalar_type(), " on ", weights[0].device(), " as the first");
      rows.push_back(w.size(0));
      cols.push_back(w.numel() / w.size(0));
      u_at.push_back(u_size);
      v_at.push_back(v_size);
      u_size += rows.back();
      v_size += cols.back();
    }
  }

  int64_t size() const { return static_cast<int64_t>(rows.size()); }

  void check(const char* name, const at::Tensor& t, int64_t length, const at::Tensor& w) const {
    TORCH_CHECK(t.dim() == 1 && t.size(0) == length && t.scalar_type() == at::toOpMathType(w.scalar_type()) &&
                    t.device() == w.device(),
                "spectral_norm: ", name, " is ", t.scalar_type(), " ", t.sizes(), " on ", t.device(), ", expected ",
                at::toOpMathType(w.scalar_type()), " [", length, "] on ", w.device());
  }

  void check_vectors(const at::Tensor& u, const std::optional<at::Tensor>& v, const at::Tensor& w) const {
    check("u", u, u_size, w);
    if (v.has_value()) check("v", *v, v_size, w);
  }

  // `others` has tensors like the weights.
  void check_alike(const char* name, at::TensorList others, at::TensorList weights) const {
    TORCH_CHECK(others.size() == weights.size(), "spectral_norm: ", name, " has ", others.size(), " tensors, expected ",
                weights.size());
    for (size_t i = 0; i < weights.size(); ++i)
      TORCH_CHECK(others[i].sizes() == weights[i].sizes() && others[i].scalar_type() == weights[i].scalar_type() &&
                      others[i].device() == weights[i].device(),
                  "spectral_norm: ", name, "[", i, "] is ", others[i].scalar_type(), " ", others[i].sizes(), " on ",
                  others[i].device(), ", expected ", weights[i].scalar_type(), " ", weights[i].sizes(), " on ",
                  weights[i].device());
  }
};

inline std::vector<at::Tensor> contiguous(at::TensorList tensors) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& t : tensors) out.push_back(t.contiguous());
  return out;
}

}  // namespace gk
