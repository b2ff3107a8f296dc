// filtered_lrelu on the GPU: torch tensors to the entry.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <cmath>

#include "device.h"
#include "filtered_lrelu_op.h"
#include "filtered_lrelu_params.h"

GK_DECLARE_RUNNER(filtered_lrelu);

namespace gk {
namespace {

using at::Tensor;
using std::optional;

FilteredResults run(const FilteredPass& pass) {
  const FilteredResults out = check_filtered(pass);
  const Tensor& x = pass.x;
  const auto format = pass.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const auto dense = [](const optional<Tensor>& t) { return t ? t->contiguous() : Tensor(); };
  const Tensor xc = x.contiguous(format), bias = dense(pass.bias), signs = out.signs.contiguous();
  const Tensor fu = pass.up.f.contiguous(), fuy = dense(pass.up.fy), fd = pass.down.f.contiguous(),
               fdy = dense(pass.down.fy);
  for (const auto& [f, fy] : {std::pair(fu, fuy), std::pair(fd, fdy)})
    TORCH_CHECK(!fy.defined() || fy.scalar_type() == f.scalar_type(), kFilteredOp, ": the vertical taps are ",
                fy.scalar_type(), ", expected ", f.scalar_type(), " as the horizontal ones");
  const auto axis = [&](int i) {
    const FirAxis &u = out.up[i], &d = out.down[i];
    return std::array<i64, 9>{u.in, u.out, d.out, u.up, d.down, u.taps, d.taps, u.pad0, d.pad0};
  };
  const auto h = axis(0), v = axis(1);
  const i64 dtype = dtype_code(x);
  Tensor parts;
  if (pass.want_sums)
    parts = at::empty({x.size(0), x.size(1),
                       gk_filtered_lrelu_parts(x.size(0), x.size(1), pass.channels_last, h.data(), v.data(),
                                               fuy.defined(), fdy.defined(), dtype)},
                      x.options().dtype(dtype == kFloat64 ? at::kDouble : at::kFloat));
  const Call call("filtered_lrelu", GK_RUNNER(filtered_lrelu), xc);
  call.check(gk_filtered_lrelu(call.pointer(xc), call.pointer(bias), call.pointer(fu), call.pointer(fuy),
                               call.pointer(fd), call.pointer(fdy), pass.want_y ? call.pointer(out.y) : nullptr,
                               pass.signs == Signs::none ? nullptr : call.pointer(signs), call.pointer(parts),
                               x.size(0), x.size(1), pass.channels_last, h.data(), v.data(), pass.flip,
                               static_cast<i64>(pass.signs), pass.up.gain, pass.gain, pass.slope, pass.bound, dtype,
                               dtype_code(fu), dtype_code(fd), call.launcher()));
  FilteredResults results = out;
  if (pass.want_sums) results.sums = parts.sum({0, 2}).to(x.scalar_type());
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) { implement_filtered<run>(m); }

}  // namespace gk
