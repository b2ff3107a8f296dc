// What the CPU and CUDA sides of add_noise share: the layout of a call, and its checks.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <array>
#include <optional>
#include <utility>

namespace gk::noise {

using at::Tensor;
using Opt = std::optional<Tensor>;

// An image [N, C, H, W] in its layout; a strength is [C], or [1] for all channels, noise [N or 1, 1, H, W], all of one
// dtype.
struct Shape {
  int64_t n, c, h, w;
  at::MemoryFormat format;
  at::TensorOptions options;

  explicit Shape(const Tensor& x) : format(x.suggest_memory_format()), options(x.options()) {
    TORCH_CHECK_VALUE(x.dim() == 4, "add_noise: x has shape ", x.sizes(), ", expected [N, C, H, W]");
    n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  }
  int64_t pixels() const { return h * w; }
  bool empty() const { return n * c * h * w == 0; }
  // Whether channels are the inner axis in memory.
  bool last() const { return format == at::MemoryFormat::ChannelsLast; }
  int64_t outer() const { return last() ? pixels() : c; }
  int64_t inner() const { return last() ? c : pixels(); }
  at::ScalarType type() const { return at::typeMetaToScalarType(options.dtype()); }
  at::TensorOptions sums() const { return options.dtype(at::toOpMathType(type())); }
  Tensor fresh() const { return at::empty({n, c, h, w}, options, format); }

  void check_strength(const Opt& s) const {
    TORCH_CHECK_VALUE(
        !s.has_value() || (s->dim() == 1 && (s->size(0) == c || s->size(0) == 1) && s->scalar_type() == type()),
        "add_noise: a strength is ", s->scalar_type(), " ", s->sizes(), ", expected ", type(), " [", c, "] or [1]");
  }
  void check_noise(const Opt& m) const {
    TORCH_CHECK_VALUE(!m.has_value() || (m->dim() == 4 && (m->size(0) == n || m->size(0) == 1) && m->size(1) == 1 &&
                                         m->size(2) == h && m->size(3) == w && m->scalar_type() == type()),
                      "add_noise: noise is ", m->scalar_type(), " ", m->sizes(), ", expected ", type(), " [", n,
                      " or 1, 1, ", h, ", ", w, "]");
  }
  // Gradients from what blocks summed: `pixels` [N, blocks, H W], `channels` [N, blocks, C]; undefined: not wanted.
  std::pair<Tensor, Tensor> totals(const Tensor& pixels, const Tensor& channels, const Opt& strength,
                                   const Tensor& noise) const {
    const auto total = [&](const Tensor& t, bool all, at::IntArrayRef shape) {
      if (!t.defined()) return at::empty({0}, options);
      const bool whole = t.size(1) == 1 && (!all || t.size(0) == 1);
      return (whole ? t : all ? at::sum(t, {0, 1}) : at::sum(t, 1)).to(type()).view(shape);
    };
    const bool one = strength.has_value() && strength->size(0) == 1;  // summed before it is rounded
    return {total(pixels, noise.size(0) != n, noise.sizes()), one && channels.defined()
                                                                  ? at::sum(channels, at::kDouble).to(type()).view({1})
                                                                  : total(channels, true, {c})};
  }
};

}  // namespace gk::noise
