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

}  // namespace gk::conv
