// What the CPU and CUDA sides of modulate_act share: the layout of a call, and its checks.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <optional>

#include "bias_act_op.h"

namespace gk::modulate {

using at::Tensor;
using Opt = std::optional<Tensor>;

// The layout that all images of a call are brought into, and what the per-channel and per-pixel numbers must be.
class Shape {
 public:
  Shape(const Tensor& like, const char* name) : format_(like.suggest_memory_format()) {
    TORCH_CHECK_VALUE(like.dim() == 4, "modulate_act: ", name, " has shape ", like.sizes(), ", expected [N, C, H, W]");
    n_ = like.size(0), c_ = like.size(1), h_ = like.size(2), w_ = like.size(3);
    sums_ = like.options().dtype(at::toOpMathType(like.scalar_type())).memory_format(at::MemoryFormat::Contiguous);
    options_ = like.options();
  }
  Tensor image(const Opt& t, const char* name) const {
    if (!t.has_value()) return {};
    TORCH_CHECK_VALUE(t->sizes() == at::IntArrayRef({n_, c_, h_, w_}) && t->scalar_type() == options_.dtype(),
                      "modulate_act: ", name, " is ", t->scalar_type(), " ", t->sizes(), ", expected ",
                      options_.dtype(), " [", n_, ", ", c_, ", ", h_, ", ", w_, "]");
    return t->contiguous(format_);
  }
  // Room for a result; an empty tensor for one that is not wanted.
  Tensor fresh(bool wanted) const {
    return wanted ? at::empty({n_, c_, h_, w_}, options_.memory_format(format_)) : at::empty({0}, options_);
  }
  Tensor channels(const Opt& t, const char* name, bool each_sample) const {
    if (!t.has_value()) return {};
    const bool fits = each_sample ? t->sizes() == at::IntArrayRef({n_, c_}) : t->sizes() == at::IntArrayRef({c_});
    TORCH_CHECK_VALUE(fits && t->scalar_type() == sums_.dtype(), "modulate_act: ", name, " is ", t->scalar_type(), " ",
                      t->sizes(), ", expected ", sums_.dtype(), " ", each_sample ? "[N, C]" : "[C]", " of [", n_, ", ",
                      c_, "]");
    return t->contiguous();
  }
  Tensor pixels(const Opt& t, const char* name) const {
    if (!t.has_value()) return {};
    TORCH_CHECK_VALUE(t->dim() == 4 && (t->size(0) == n_ || t->size(0) == 1) && t->size(1) == 1 && t->size(2) == h_ &&
                          t->size(3) == w_ && t->scalar_type() == sums_.dtype(),
                      "modulate_act: ", name, " is ", t->scalar_type(), " ", t->sizes(), ", expected ", sums_.dtype(),
                      " [", n_, " or 1, 1, ", h_, ", ", w_, "]");
    return t->contiguous();
  }
  at::MemoryFormat format() const { return format_; }
  at::TensorOptions sums() const { return sums_; }
  bool channels_last() const { return format_ == at::MemoryFormat::ChannelsLast; }
  int64_t n() const { return n_; }
  int64_t c() const { return c_; }
  int64_t pixels() const { return h_ * w_; }

 private:
  at::MemoryFormat format_;
  at::TensorOptions options_, sums_;
  int64_t n_, c_, h_, w_;
};

inline void check_x(const Opt& x, c10::string_view act, double clamp, bool by_x, const char* op) {
  TORCH_CHECK(x.has_value() || (act == "linear" && clamp < 0 && !by_x), op, ": x is needed");
}

inline void check_dense(const Tensor& x, const Shape& shape) {
  TORCH_CHECK(x.is_contiguous(shape.format()), "modulate_act_: x has strides ", x.strides(),
              ", expected a dense tensor");
}

}  // namespace gk::modulate
