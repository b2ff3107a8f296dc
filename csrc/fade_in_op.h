// What the CPU and CUDA sides of fade_in share: the sizes of a call, and its checks.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <array>
#include <optional>

namespace gk::fade {

using at::Tensor;
using Opt = std::optional<Tensor>;

// Images [N, C, r H, r W] and low ones [N, C, H, W], all in one layout and dtype.
struct Shape {
  int64_t n, c, h, w, r;  // of low ones
  at::MemoryFormat format;
  at::TensorOptions options;

  Shape(const Tensor& like, bool low, int64_t r) : r(r), format(like.suggest_memory_format()), options(like.options()) {
    TORCH_CHECK_VALUE(like.dim() == 4 && r >= 1, "fade_in: got a tensor ", like.sizes(), " and factor ", r,
                      ", expected 4 dimensions and 1 or more");
    n = like.size(0), c = like.size(1), h = like.size(2), w = like.size(3);
    if (low) return;
    TORCH_CHECK_VALUE(h % r == 0 && w % r == 0, "fade_in: got an image ", like.sizes(), ", which ", r,
                      " does not divide");
    h /= r, w /= r;
  }
  // By the first that is given.
  static Shape of(const Opt& x, const Opt& l, const Opt& x2, const Opt& l2, int64_t r) {
    TORCH_CHECK_VALUE(x || l || x2 || l2, "fade_in: got no image");
    return x ? Shape(*x, false, r) : l ? Shape(*l, true, r) : x2 ? Shape(*x2, false, r) : Shape(*l2, true, r);
  }

  // In memory a low image is [rows, columns, inner], an image [rows, r, columns, r, inner].
  bool last() const { return format == at::MemoryFormat::ChannelsLast; }
  int64_t rows() const { return n * (last() ? 1 : c) * h; }
  int64_t columns() const { return r == 1 && last() ? w * c : w; }
  int64_t inner() const { return r > 1 && last() ? c : 1; }
  bool empty() const { return n * c * h * w == 0; }
  at::ScalarType type() const { return at::typeMetaToScalarType(options.dtype()); }

  std::array<int64_t, 4> sizes(bool low) const { return {n, c, low ? h : h * r, low ? w : w * r}; }
  Tensor fresh(bool low, bool wanted = true) const {
    return wanted ? at::empty(sizes(low), options, format) : at::empty({0}, options);
  }
  Tensor image(const Opt& t, const char* name, bool low) const {
    if (!t.has_value()) return {};
    const auto expected = sizes(low);
    TORCH_CHECK_VALUE(t->sizes() == at::IntArrayRef(expected) && t->scalar_type() == type(), "fade_in: ", name, " is ",
                      t->scalar_type(), " ", t->sizes(), ", expected ", type(), " ", at::IntArrayRef(expected));
    return t->contiguous(format);
  }
  Tensor number(const Opt& t, const char* name) const {
    if (!t.has_value()) return {};
    TORCH_CHECK_VALUE(t->dim() == 0 && t->scalar_type() == type(), "fade_in: ", name, " is ", t->scalar_type(), " ",
                      t->sizes(), ", expected ", type(), " []");
    return *t;
  }
};

}  // namespace gk::fade
