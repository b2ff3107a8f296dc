// What the CPU's convolution kernels share.
#pragma once
#include "conv2d_op.h"

namespace gk::conv {

// Where a plane's rows lie: sample [r][q] of the scratch at r * pitch + q, of the image at (r * row_step) * width + q *
// step, for 0 <= r < rows and 0 <= q < count.
struct ConvPlane {
  int64_t rows, count, pitch, row_step, width, step;
};

// Where the direct kernel is quicker than the library's convolution: see conv2d_direct.cpp.
bool direct_pays(const at::Tensor& x, const at::Tensor& weight, const Geometry& g, at::IntArrayRef size,
                 bool transposed, at::MemoryFormat format);

// The convolution (or the transposed one) of float x [N, C, H, W], contiguous in NCHW, to a contiguous [N, C', *size].
at::Tensor direct(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  const Geometry& g, at::IntArrayRef size, bool transposed);

// Whether one matrix product over patches is the fastest way, for all three parts of the form; and each of them.
bool product_pays(const at::Tensor& any, at::IntArrayRef weight, int64_t n, at::IntArrayRef small, const Geometry& g,
                  at::MemoryFormat format);
at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   const Geometry& g, at::IntArrayRef size);
at::Tensor product_transpose(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             const Geometry& g, at::IntArrayRef size);
at::Tensor product_weight_grad(const at::Tensor& small, const at::Tensor& large, const Geometry& g,
                               at::IntArrayRef kernel);

}  // namespace gk::conv
