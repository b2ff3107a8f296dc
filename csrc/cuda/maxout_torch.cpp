// maxout on the GPU: torch tensors to the entry.
#include <torch/library.h>

#include "device.h"
#include "maxout_op.h"
#include "maxout_params.h"

GK_DECLARE_RUNNER(maxout);

namespace gk {
namespace {

using at::Tensor;

void run(const MaxoutShape& s, i64 order, const Tensor& in, const Tensor& out, const Tensor& index) {
  if (s.results() == 0) return;
  const Call call("maxout", GK_RUNNER(maxout), in);
  call.check(gk_maxout(call.pointer(in), call.pointer(out), call.pointer(index), s.rows, s.pieces, s.inner,
                       dtype_code(in), order, call.launcher()));
}

std::tuple<Tensor, Tensor> maxout_cuda(const Tensor& x, int64_t pieces, int64_t dim, bool with_index) {
  const MaxoutShape s(x, pieces, dim, true);
  const Tensor y = s.empty(s.reduced, x, x.scalar_type()), index = s.index(x, with_index);
  run(s, kMaxoutValue, x.contiguous(s.format), y, with_index ? index : Tensor());
  return {y, index};
}

Tensor maxout_scatter_cuda(const Tensor& g, const Tensor& index, int64_t pieces, int64_t dim) {
  const MaxoutShape s(index, pieces, dim, false);
  const Tensor out = s.empty(s.whole, g, g.scalar_type());
  run(s, kMaxoutScatter, s.checked(g, "g", s.reduced), out, s.checked_index(index));
  return out;
}

Tensor maxout_gather_cuda(const Tensor& v, const Tensor& index, int64_t pieces, int64_t dim) {
  const MaxoutShape s(index, pieces, dim, false);
  const Tensor out = s.empty(s.reduced, v, v.scalar_type());
  run(s, kMaxoutGather, s.checked(v, "v", s.whole), out, s.checked_index(index));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("maxout", &maxout_cuda);
  m.impl("maxout_scatter", &maxout_scatter_cuda);
  m.impl("maxout_gather", &maxout_gather_cuda);
}

}  // namespace gk
