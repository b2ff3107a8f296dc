// What the CPU's convolution kernels share: the sizes of one call, with the indices of csrc/conv2d_autograd.cpp.
#pragma once
#include <ATen/ATen.h>

#include <array>

namespace gk::conv {

using Pair = std::array<int64_t, 2>;  // [rows, columns]

struct Geometry {
  Pair stride, padding, dilation;
  int64_t groups;
};

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

// The sizes of one call, by the names of the trilinear form: the weight is [small_channels, large_channels, *kernel].
struct Sizes {
  int64_t batch, small_channels, large_channels;
  Pair small, large, kernel;

  Sizes(at::IntArrayRef a, at::IntArrayRef b, at::IntArrayRef k)
      : batch(a[0]),
        small_channels(a[1]),
        large_channels(b[1]),
        small{a[2], a[3]},
        large{b[2], b[3]},
        kernel{k[0], k[1]} {}
};

enum class Result { small, large, weight };

// Where one matrix product of the unfolded image is quicker than the library's convolution: see conv2d_product.cpp.
bool product_pays(const Sizes& s, const Geometry& g, const at::Tensor& like, Result wanted, at::MemoryFormat format);

// The form's derivatives by `small`, `large` and the weight, contiguous, in one group.
at::Tensor product_small(const at::Tensor& large, const at::Tensor& weight, const Sizes& s, const Geometry& g);
at::Tensor product_large(const at::Tensor& small, const at::Tensor& weight, const Sizes& s, const Geometry& g);
at::Tensor product_weight(const at::Tensor& small, const at::Tensor& large, const Sizes& s, const Geometry& g);

}  // namespace gk::conv
