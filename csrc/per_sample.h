// What the CPU and CUDA kernels of sum_squares_per_sample and norm_per_sample share: checks and layout.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

namespace gk {

// Sums, factors and norms, [N], are of this dtype.
inline at::ScalarType sums_dtype(const at::Tensor& x) { return at::toOpMathType(x.scalar_type()); }

// Samples are contiguous in it, one after the other.
inline at::MemoryFormat sample_format(const at::Tensor& x) { return x.suggest_memory_format(); }

inline void check_samples(const char* op, const at::Tensor& x) {
  TORCH_CHECK(x.dim() >= 1 && x.is_floating_point(), op, ": x has shape ", x.sizes(), " and dtype ", x.scalar_type(),
              ", expected [N, ...] of floating point");
}

inline void check_alike(const char* op, const char* name, const at::Tensor& other, const at::Tensor& x) {
  TORCH_CHECK(other.sizes() == x.sizes() && other.scalar_type() == x.scalar_type() && other.device() == x.device(), op,
              ": ", name, " is ", other.scalar_type(), " ", other.sizes(), " on ", other.device(), ", expected ",
              x.scalar_type(), " ", x.sizes(), " on ", x.device());
}

inline void check_factors(const char* op, const char* name, const at::Tensor& f, const at::Tensor& x) {
  TORCH_CHECK(f.dim() == 1 && f.size(0) == x.size(0) && f.scalar_type() == sums_dtype(x) && f.device() == x.device(),
              op, ": ", name, " is ", f.scalar_type(), " ", f.sizes(), " on ", f.device(), ", expected ", sums_dtype(x),
              " [", x.size(0), "] on ", x.device());
}

}  // namespace gk
