// What upfirdn2d's CPU and CUDA bindings check, and the axes of a call.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "upfirdn2d.h"

namespace gk {

// The axes of a call, after its checks: {x, y}. `taps` are [KH, KW].
inline std::vector<FirAxis> fir_axes(const at::Tensor& x, at::IntArrayRef taps, at::IntArrayRef up,
                                     at::IntArrayRef down, at::IntArrayRef padding) {
  TORCH_CHECK(x.dim() == 4 && x.size(2) > 0 && x.size(3) > 0, "upfirdn2d: x has shape ", x.sizes(),
              ", expected [N, C, H, W] with H and W at least 1");
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4 && taps.size() == 2,
              "upfirdn2d: expected factors [x, y], padding [x0, x1, y0, y1] and taps [KH, KW]");
  std::vector<FirAxis> axes;
  for (int i = 0; i < 2; ++i) {
    FirAxis a{x.size(3 - i), 0, taps[1 - i], up[i], down[i], padding[2 * i]};
    TORCH_CHECK(a.up > 0 && a.down > 0 && a.taps > 0, "upfirdn2d: up ", up, ", down ", down, ", taps ", taps,
                ", expected 1 or more each");
    const int64_t room = a.in * a.up + a.pad0 + padding[2 * i + 1] - a.taps;
    TORCH_CHECK(room >= 0, "upfirdn2d: the output would be empty, for x ", x.sizes(), ", up ", up, ", padding ",
                padding, " and taps ", taps);
    a.out = room / a.down + 1;
    axes.push_back(a);
  }
  return axes;
}

inline void check_fir_filter(const at::Tensor& x, const at::Tensor& f, const std::optional<at::Tensor>& fy) {
  for (const at::Tensor& t : {f, fy.value_or(f)})
    TORCH_CHECK(t.device() == x.device() && (t.scalar_type() == x.scalar_type() || t.scalar_type() == at::kFloat),
                "upfirdn2d: the filter is ", t.scalar_type(), " on ", t.device(), ", expected float32 or ",
                x.scalar_type(), " on ", x.device());
  TORCH_CHECK(fy.has_value() ? f.dim() == 1 && fy->dim() == 1 : f.dim() == 2, "upfirdn2d: the filter has shape ",
              f.sizes(), ", expected [KH, KW], or [KW] with fy of [KH]");
}

inline void check_fir_cotangent(const at::Tensor& x, const at::Tensor& g, const std::vector<FirAxis>& axes) {
  const std::vector<int64_t> expected{x.size(0), x.size(1), axes[1].out, axes[0].out};
  TORCH_CHECK(g.sizes() == expected && g.scalar_type() == x.scalar_type() && g.device() == x.device(),
              "upfirdn2d_filter_grad: g is ", g.scalar_type(), g.sizes(), ", expected ", x.scalar_type(), expected);
}

}  // namespace gk
