// What grid_sample2d's CPU and CUDA bindings check, and a call's sizes.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <limits>
#include <optional>

#include "grid_sample2d.h"

namespace gk {

// The tensors beside the images: `grid` [N, OH, OW, 2], or [N, 2, 3] for an affine one; `along` [N, OH, OW, 2] for a
// derivative along it, [N, OH, OW, 1] for the mixed one times it.
struct SampleCall {
  at::MemoryFormat format;
  bool last, affine;
  int64_t n, channels, height, width, out_height, out_width;
  int order;
  SampleSettings settings;
  at::Tensor grid, along;  // along undefined for order 0
  at::ScalarType acc;

  // `image` is x or y; `size` [H, W] is x's, `out` [OH, OW] y's.
  SampleCall(const at::Tensor& image, const at::Tensor& grid_, const std::optional<at::Tensor>& along_,
             at::IntArrayRef size, at::IntArrayRef out, int64_t mode, int64_t padding, bool align) {
    TORCH_CHECK_VALUE(image.dim() == 4, "grid_sample2d: an image has shape ", image.sizes(), ", expected 4 dimensions");
    TORCH_CHECK_VALUE(size.size() == 2 && out.size() == 2, "grid_sample2d: got ", size, " and ", out,
                      ", expected [H, W] and [OH, OW]");
    TORCH_CHECK_VALUE(mode >= 0 && mode <= 1 && padding >= 0 && padding <= 2, "grid_sample2d: mode is ", mode,
                      " and padding ", padding, ", expected 0 or 1 and 0, 1 or 2");
    format = image.suggest_memory_format();
    last = format == at::MemoryFormat::ChannelsLast;
    n = image.size(0), channels = image.size(1);
    height = size[0], width = size[1], out_height = out[0], out_width = out[1];
    TORCH_CHECK_VALUE(height > 0 && width > 0 && out_height >= 0 && out_width >= 0,
                      "grid_sample2d: x has [H, W] = ", size, " and y ", out, ", expected x not to be empty");
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    TORCH_CHECK_VALUE(height <= most / width && (out_width == 0 || out_height <= most / out_width),
                      "grid_sample2d: an image of [H, W] = ", size, " to ", out, ", expected fewer than 2^31 pixels");
    affine = grid_.dim() == 3;
    acc = image.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    check(grid_, image, "grid", affine ? at::IntArrayRef({n, 2, 3}) : at::IntArrayRef({n, out[0], out[1], 2}));
    TORCH_CHECK_VALUE(grid_.scalar_type() == image.scalar_type() || grid_.scalar_type() == acc,
                      "grid_sample2d: grid is ", grid_.scalar_type(), ", expected ", acc, " or ", image.scalar_type());
    grid = grid_.contiguous();
    order = 0;
    if (along_.has_value() && along_->defined()) {
      TORCH_CHECK_VALUE(
          along_->dim() == 4 && (along_->size(3) == 1 || along_->size(3) == 2) && along_->scalar_type() == acc,
          "grid_sample2d: along is ", along_->scalar_type(), along_->sizes(), ", expected ", acc,
          "[N, OH, OW, 1 or 2]");
      check(*along_, image, "along", {n, out[0], out[1], along_->size(3)});
      order = along_->size(3) == 2 ? 1 : 2;
      along = along_->contiguous();
    }
    settings = {static_cast<int>(mode), static_cast<int>(padding), align};
  }

  int64_t pixels() const { return height * width; }
  int64_t out_pixels() const { return out_height * out_width; }

  at::Tensor empty_x(const at::Tensor& like) const {
    return at::empty({n, channels, height, width}, like.options(), format);
  }
  at::Tensor empty_y(const at::Tensor& like) const {
    return at::empty({n, channels, out_height, out_width}, like.options(), format);
  }
  at::Tensor as_x(const at::Tensor& t, const at::Tensor& like) const {
    return image(t, like, "x", {n, channels, height, width});
  }
  at::Tensor as_y(const at::Tensor& t, const at::Tensor& like) const {
    return image(t, like, "gy", {n, channels, out_height, out_width});
  }

 private:
  static void check(const at::Tensor& t, const at::Tensor& image, const char* name, at::IntArrayRef sizes) {
    TORCH_CHECK_VALUE(t.sizes() == sizes && t.device() == image.device(), "grid_sample2d: ", name, " has shape ",
                      t.sizes(), " on ", t.device(), ", expected ", sizes, " on ", image.device());
  }
  at::Tensor image(const at::Tensor& t, const at::Tensor& like, const char* name, at::IntArrayRef sizes) const {
    check(t, like, name, sizes);
    TORCH_CHECK_VALUE(t.scalar_type() == like.scalar_type(), "grid_sample2d: ", name, " is ", t.scalar_type(),
                      ", expected ", like.scalar_type());
    return t.contiguous(format);
  }
};

}  // namespace gk
