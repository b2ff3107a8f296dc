// What filtered_lrelu's CPU and CUDA bindings share: a pass, its checks and results, and the operators made of it.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <vector>

#include "filtered_lrelu.h"
#include "upfirdn2d_op.h"

namespace gk {

constexpr const char* kFilteredOp = "filtered_lrelu";

enum class Signs { none, write, read };

struct FilteredFilter {
  const at::Tensor& f;
  const std::optional<at::Tensor>& fy;
  at::IntArrayRef up, down, padding;
  double gain;
};

struct FilteredPass {
  const at::Tensor& x;
  const std::optional<at::Tensor>& bias;
  std::optional<at::Tensor> given_signs;  // where they are read
  FilteredFilter up, down;
  bool flip;
  Signs signs;
  bool channels_last, want_y, want_sums;
  double gain, slope, bound;
};

struct FilteredResults {
  at::Tensor y, signs, sums;      // y and sums empty where they are not wanted
  std::vector<FirAxis> up, down;  // {x, y}
};

// The axes of a resampling of `size`, [H, W]: {x, y}.
inline std::vector<FirAxis> filtered_axes(at::IntArrayRef size, const FilteredFilter& f) {
  TORCH_CHECK(f.f.dim() > 0 && f.up.size() == 2 && f.down.size() == 2 && f.padding.size() == 4, kFilteredOp,
              ": expected a filter, factors [x, y] and padding [x0, x1, y0, y1]");
  const auto axis = [&](int i, int64_t taps) {
    return fir_axis(kFilteredOp, size[1 - i], taps, f.up[i], f.down[i], f.padding[2 * i], f.padding[2 * i + 1]);
  };
  return {axis(0, f.f.size(-1)), axis(1, f.fy.value_or(f.f).size(0))};
}

// Checks a pass and allocates its results.
inline FilteredResults check_filtered(const FilteredPass& p) {
  const at::Tensor& x = p.x;
  TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, kFilteredOp, ": x has shape ", x.sizes(),
              ", expected [N, C, H, W] with C, H and W at least 1");
  TORCH_CHECK(!p.bias.has_value() || (p.bias->scalar_type() == x.scalar_type() && p.bias->device() == x.device() &&
                                      p.bias->dim() == 1 && p.bias->size(0) == x.size(1)),
              kFilteredOp, ": bias does not match x ", x.sizes(), " of ", x.scalar_type(), ", expected [", x.size(1),
              "]");
  check_fir_filter(x, p.up.f, p.up.fy, kFilteredOp);
  check_fir_filter(x, p.down.f, p.down.fy, kFilteredOp);
  FilteredResults out;
  out.up = filtered_axes({x.size(2), x.size(3)}, p.up);
  out.down = filtered_axes({out.up[1].out, out.up[0].out}, p.down);
  const std::vector<int64_t> kept{x.size(0), x.size(1), out.up[1].out, sign_bytes(out.up[0].out)};
  const auto bytes = x.options().dtype(at::kByte);
  const auto format = p.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  out.y = p.want_y
              ? at::empty({x.size(0), x.size(1), out.down[1].out, out.down[0].out}, x.options().memory_format(format))
              : at::empty({0}, x.options());
  out.signs = at::empty(p.signs == Signs::write ? kept : std::vector<int64_t>{0}, bytes);
  out.sums = at::empty({p.want_sums ? x.size(1) : 0}, x.options());
  if (p.signs == Signs::read) {
    const at::Tensor& signs = *p.given_signs;
    TORCH_CHECK(
        signs.sizes() == at::IntArrayRef(kept) && signs.scalar_type() == at::kByte && signs.device() == x.device(),
        kFilteredOp, ": signs of ", signs.scalar_type(), " have shape ", signs.sizes(), ", expected uint8 ", kept);
    out.signs = signs.contiguous();
  }
  return out;
}

// The three operators of a device, all made of its Run.
template <FilteredResults (*Run)(const FilteredPass&)>
struct FilteredOps {
  using Tensor = at::Tensor;
  using Optional = const std::optional<at::Tensor>&;
  static constexpr int64_t kOne[2] = {1, 1}, kNone[4] = {0, 0, 0, 0};

  static FilteredResults forward(const Tensor& x, Optional bias, const Tensor& fu, Optional fuy, const Tensor& fd,
                                 Optional fdy, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
                                 bool flip, double gain, double slope, double clamp, Signs signs) {
    TORCH_CHECK(up.size() == 2, kFilteredOp, ": up is ", up, ", expected [x, y]");
    const bool last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    return Run({x,
                bias,
                {},
                {fu, fuy, up, kOne, padding, double(up[0] * up[1])},
                {fd, fdy, kOne, down, kNone, 1},
                flip,
                signs,
                last,
                true,
                false,
                gain,
                slope,
                clamp < 0 ? INFINITY : clamp});
  }

  static Tensor plain(const Tensor& x, Optional bias, const Tensor& fu, Optional fuy, const Tensor& fd, Optional fdy,
                      at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain,
                      double slope, double clamp) {
    return forward(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, Signs::none).y;
  }

  static std::tuple<Tensor, Tensor> with_signs(const Tensor& x, Optional bias, const Tensor& fu, Optional fuy,
                                               const Tensor& fd, Optional fdy, at::IntArrayRef up, at::IntArrayRef down,
                                               at::IntArrayRef padding, bool flip, double gain, double slope,
                                               double clamp) {
    const auto r = forward(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, Signs::write);
    return {r.y, r.signs};
  }

  static std::tuple<Tensor, Tensor> linear(const Tensor& x, Optional bias, const Tensor& signs, const Tensor& fu,
                                           Optional fuy, const Tensor& fd, Optional fdy, at::IntArrayRef up,
                                           at::IntArrayRef down, at::IntArrayRef pad_up, at::IntArrayRef pad_down,
                                           bool flip, double up_gain, double gain, double slope, bool channels_last,
                                           bool want_y, bool want_sums) {
    const auto r = Run({x,
                        bias,
                        signs,
                        {fu, fuy, up, kOne, pad_up, up_gain},
                        {fd, fdy, kOne, down, pad_down, 1},
                        flip,
                        Signs::read,
                        channels_last,
                        want_y,
                        want_sums,
                        gain,
                        slope,
                        INFINITY});
    return {r.y, r.sums};
  }
};

template <FilteredResults (*Run)(const FilteredPass&)>
void implement_filtered(torch::Library& m) {
  m.impl("filtered_lrelu", &FilteredOps<Run>::plain);
  m.impl("filtered_lrelu_signs", &FilteredOps<Run>::with_signs);
  m.impl("filtered_lrelu_linear", &FilteredOps<Run>::linear);
}

}  // namespace gk
