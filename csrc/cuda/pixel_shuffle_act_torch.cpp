// pixel_shuffle_act on the GPU: torch tensors to the entry. PyTorch adds up the sums of blocks.
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "device.h"
#include "pixel_shuffle_act_op.h"
#include "pixel_shuffle_act_params.h"

GK_DECLARE_RUNNER(pixel_shuffle_act);

namespace gk::shuffle {
namespace {

// Results that are not wanted are undefined; returns the channels' sums.
Tensor run(const Shape& s, const Given& t, int order, const Tensor& out, const Tensor& out_g, bool want_sums) {
  if (s.numel() == 0) return want_sums ? at::zeros({s.channels()}, s.options) : at::empty({0}, s.options);
  if (!out.defined() && !out_g.defined() && !want_sums) return at::empty({0}, s.options);
  const Tensor& like = t.ref.defined() ? t.ref : t.g;
  const Call call("pixel_shuffle_act", GK_RUNNER(pixel_shuffle_act), like);
  void *ref = call.pointer(t.ref), *g = call.pointer(t.g), *v = call.pointer(t.v), *to = call.pointer(out),
       *to_g = call.pointer(out_g);
  const bool wide = aligned(ref, 16) && aligned(g, 16) && aligned(v, 16) && aligned(to, 16) && aligned(to_g, 16);
  const i64 dtype = dtype_code(like);
  Tensor sums;
  if (want_sums) {
    const i64 splits = gk_pixel_shuffle_act_splits(s.n, s.c, s.h, s.w, s.r, s.last(), wide, dtype);
    sums = at::empty({splits, s.channels()}, s.options.dtype(at::toOpMathType(like.scalar_type())));
  }
  call.check(gk_pixel_shuffle_act(ref, call.pointer(t.bias), g, v, call.pointer(t.v_bias), to, to_g, call.pointer(sums),
                                  s.n, s.c, s.h, s.w, s.r, s.last(), wide, dtype, order, static_cast<i64>(t.act),
                                  t.ref_is_output, t.alpha, t.gain, t.clamp, call.launcher()));
  if (!want_sums) return at::empty({0}, s.options);
  return (sums.size(0) == 1 ? sums[0] : at::sum(sums, 0)).to(like.scalar_type());
}

}  // namespace
}  // namespace gk::shuffle

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) { gk::shuffle::Operators<&gk::shuffle::run>::implement(m); }
