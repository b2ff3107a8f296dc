// fade_in on the GPU: torch tensors to entries. PyTorch adds up the sums of blocks.
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <initializer_list>

#include "device.h"
#include "fade_in_op.h"
#include "fade_in_params.h"

GK_DECLARE_RUNNER(fade_in);

namespace gk::fade {
namespace {

bool all_wide(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* p) { return aligned(p, 16); });
}

Tensor fade_in_cuda(const Opt& x_, const Opt& l_, const Opt& a_, const Opt& x2_, const Opt& l2_, const Opt& a2_,
                    bool difference, double factor, int64_t r) {
  const Shape s = Shape::of(x_, l_, x2_, l2_, r);
  const Tensor x = s.image(x_, "x", false), l = s.image(l_, "l", true), x2 = s.image(x2_, "x2", false),
               l2 = s.image(l2_, "l2", true), a = s.number(a_, "a"), a2 = s.number(a2_, "a2"), y = s.fresh(false);
  if (s.empty()) return y;
  const Call call("fade_in", GK_RUNNER(fade_in), y);
  void *px = call.pointer(x), *pl = call.pointer(l), *px2 = call.pointer(x2), *pl2 = call.pointer(l2),
       *py = call.pointer(y);
  call.check(gk_fade_in_value(px, pl, call.pointer(a), px2, pl2, call.pointer(a2), py, s.rows(), s.columns(), s.inner(),
                              r, difference, all_wide({px, pl, px2, pl2, py}), dtype_code(y), factor, call.launcher()));
  return y;
}

std::tuple<Tensor, Tensor, Tensor> fade_in_adjoint_cuda(const Tensor& g_, const Opt& x_, const Opt& l_, const Opt& a_,
                                                        bool difference, double factor, int64_t r,
                                                        std::array<bool, 3> wanted) {
  const Shape s(g_, false, r);
  const Tensor g = s.image(g_, "g", false), x = s.image(x_, "x", false), l = s.image(l_, "l", true),
               a = s.number(a_, "a"), gx = s.fresh(false, wanted[0]), gl = s.fresh(true, wanted[1]);
  const Tensor none = at::empty({0}, s.options);
  if (s.empty()) return {gx, gl, wanted[2] ? at::zeros({}, s.options) : none};
  const Call call("fade_in", GK_RUNNER(fade_in), g);
  void *pg = call.pointer(g), *px = wanted[2] ? call.pointer(x) : nullptr, *pl = wanted[2] ? call.pointer(l) : nullptr,
       *pgx = wanted[0] ? call.pointer(gx) : nullptr, *pgl = wanted[1] ? call.pointer(gl) : nullptr;
  const bool wide = all_wide({pg, px, pl, pgx, pgl});
  Tensor sums;
  if (wanted[2]) {
    const i64 blocks = gk_fade_in_blocks(s.rows(), s.columns(), s.inner(), r, wide, dtype_code(g));
    sums = at::empty({static_cast<int64_t>(blocks)}, s.options.dtype(at::toOpMathType(s.type())));
  }
  call.check(gk_fade_in_adjoint(pg, px, pl, call.pointer(a), pgx, pgl, call.pointer(sums), s.rows(), s.columns(),
                                s.inner(), r, difference, wide, dtype_code(g), factor, call.launcher()));
  return {gx, gl, wanted[2] ? at::sum(sums, 0).to(s.type()) : none};
}

}  // namespace
}  // namespace gk::fade

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("fade_in", &gk::fade::fade_in_cuda);
  m.impl("fade_in_adjoint", &gk::fade::fade_in_adjoint_cuda);
}
