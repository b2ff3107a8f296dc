// upfirdn2d on the GPU: torch tensors to entries.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "device.h"
#include "upfirdn2d_op.h"
#include "upfirdn2d_params.h"

GK_DECLARE_RUNNER(upfirdn2d);

namespace gk {
namespace {

using at::Tensor;
using std::optional;

// NCHW as planes of rows of numbers, NHWC as images of rows of pixels.
struct FirLayout {
  at::MemoryFormat format;
  i64 planes, channels;

  explicit FirLayout(const Tensor& x) : format(x.suggest_memory_format()) {
    const bool last = format == at::MemoryFormat::ChannelsLast;
    planes = last ? x.size(0) : x.size(0) * x.size(1);
    channels = last ? x.size(1) : 1;
  }
};

Tensor upfirdn2d_cuda(const Tensor& x, const Tensor& f, const optional<Tensor>& fy, at::IntArrayRef up,
                      at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain) {
  check_fir_filter(x, f, fy);
  const auto axes = fir_axes(x, {fy.value_or(f).size(0), f.size(-1)}, up, down, padding);
  const FirAxis &h = axes[0], &v = axes[1];
  const FirLayout layout(x);
  const Tensor xc = x.contiguous(layout.format), fc = f.contiguous(), fyc = fy ? fy->contiguous() : Tensor();
  TORCH_CHECK(!fy || fyc.scalar_type() == fc.scalar_type(), "upfirdn2d: fy is ", fyc.scalar_type(), ", expected ",
              fc.scalar_type(), " as f");
  const Tensor y = at::empty({x.size(0), x.size(1), v.out, h.out}, x.options().memory_format(layout.format));
  const Call call("upfirdn2d", GK_RUNNER(upfirdn2d), xc);
  call.check(gk_upfirdn2d_forward(call.pointer(xc), call.pointer(fc), call.pointer(fyc), call.pointer(y), layout.planes,
                                  layout.channels, v.in, h.in, v.out, h.out, v.taps, h.taps, h.up, v.up, h.down, v.down,
                                  h.pad0, v.pad0, flip, gain, dtype_code(xc), dtype_code(fc), call.launcher()));
  return y;
}

Tensor filter_grad_cuda(const Tensor& x, const Tensor& g, at::IntArrayRef taps, at::IntArrayRef up,
                        at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain) {
  const auto axes = fir_axes(x, taps, up, down, padding);
  check_fir_cotangent(x, g, axes);
  const FirAxis &h = axes[0], &v = axes[1];
  const auto options = x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  if (!x.numel()) return at::zeros({v.taps, h.taps}, options);
  const FirLayout layout(x);
  const Tensor xc = x.contiguous(layout.format), gc = g.contiguous(layout.format);
  const Tensor out = at::empty({v.taps, h.taps}, options);
  const Tensor workspace =
      at::empty({gk_upfirdn2d_splits(g.numel(), v.taps * h.taps), v.taps, h.taps}, x.options().dtype(at::kDouble));
  const Call call("upfirdn2d", GK_RUNNER(upfirdn2d), xc);
  call.check(gk_upfirdn2d_filter_grad(call.pointer(xc), call.pointer(gc), call.pointer(out), call.pointer(workspace),
                                      layout.planes, layout.channels, v.in, h.in, v.out, h.out, v.taps, h.taps, h.up,
                                      v.up, h.down, v.down, h.pad0, v.pad0, flip, gain, dtype_code(xc),
                                      call.launcher()));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("upfirdn2d", &upfirdn2d_cuda);
  m.impl("upfirdn2d_filter_grad", &filter_grad_cuda);
}

}  // namespace gk
