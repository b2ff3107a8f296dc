// What the CPU and CUDA sides of pixel_norm check and allocate alike.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "pixel_norm.h"

namespace gk {

// Checked arguments, x as it is read, and that as [outer, count, inner].
struct PixelNormCall {
  at::MemoryFormat format;
  at::Tensor x;
  int64_t outer = 1, count = 1, inner = 1;
  double eps;

  PixelNormCall(const at::Tensor& given, int64_t dim, double eps) : eps(eps) {
    TORCH_CHECK_VALUE(dim >= 0 && dim < given.dim(), "pixel_norm: dim is ", dim, " for a tensor of ", given.dim(),
                      " dimensions");
    TORCH_CHECK_VALUE(eps > 0, "pixel_norm: eps is ", eps, ", expected more than 0");
    format = dim == 1 ? given.suggest_memory_format() : at::MemoryFormat::Contiguous;
    x = given.contiguous(format);
    count = given.size(dim);
    if (format == at::MemoryFormat::Contiguous)
      for (int64_t i = dim + 1; i < given.dim(); ++i) inner *= given.size(i);
    if (count * inner > 0) outer = given.numel() / (count * inner);
  }
  at::Tensor empty(bool wanted = true) const {
    return wanted ? at::empty(x.sizes(), x.options(), format) : at::empty({0}, x.options());
  }
  at::Tensor other(const at::Tensor& t, const char* name) const {
    TORCH_CHECK_VALUE(t.scalar_type() == x.scalar_type() && t.device() == x.device(), "pixel_norm: ", name, " is ",
                      t.scalar_type(), " on ", t.device(), ", expected ", x.scalar_type(), " on ", x.device());
    TORCH_CHECK_VALUE(t.sizes() == x.sizes(), "pixel_norm: ", name, " has shape ", t.sizes(), ", expected ", x.sizes());
    return t.contiguous(format);
  }
};

}  // namespace gk
