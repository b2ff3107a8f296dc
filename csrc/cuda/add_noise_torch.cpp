// add_noise on the GPU: torch tensors to entries. PyTorch adds up the sums of blocks.
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "add_noise_op.h"
#include "add_noise_params.h"
#include "device.h"

GK_DECLARE_RUNNER(add_noise);

namespace gk::noise {
namespace {

// One number for all channels is not written out.
Tensor stepped(const Shape& shape, const Opt& s) {
  if (!s.has_value()) return {};
  return s->size(0) == 1 || s->stride(0) == 0 ? s->expand({shape.c}) : s->contiguous();
}
i64 step_of(const Tensor& s) { return s.defined() && s.size(0) > 1 && s.stride(0) == 0 ? 0 : 1; }
Tensor dense(const Opt& m) { return m.has_value() ? m->contiguous() : Tensor(); }

// Whether numbers along the inner axis can be read in packs; `at` is where they are.
bool wide_line(const Shape& shape, const Tensor& s, const void* s_at, const void* m_at) {
  return shape.last() ? step_of(s) == 0 || aligned(s_at, 16) : aligned(m_at, 16);
}

Tensor add_noise_cuda(const Tensor& x, bool add, const Opt& s_, const Opt& m_, const Opt& s2_, const Opt& m2_,
                      double factor) {
  const Shape shape(x);
  for (const Opt* s : {&s_, &s2_}) shape.check_strength(*s);
  for (const Opt* m : {&m_, &m2_}) shape.check_noise(*m);
  const Tensor y = shape.fresh();
  if (shape.empty()) return y;
  const Tensor xc = add ? x.contiguous(shape.format) : Tensor(), s = stepped(shape, s_), s2 = stepped(shape, s2_),
               m = dense(m_), m2 = dense(m2_);
  const Call call("add_noise", GK_RUNNER(add_noise), y);
  void *px = call.pointer(xc), *py = call.pointer(y), *ps = call.pointer(s), *ps2 = call.pointer(s2),
       *pm = call.pointer(m), *pm2 = call.pointer(m2);
  const bool wide = aligned(px, 16) && aligned(py, 16) && wide_line(shape, s, ps, pm) && wide_line(shape, s2, ps2, pm2);
  const auto shared = [](const Tensor& t) { return t.defined() && t.size(0) == 1; };
  call.check(gk_add_noise_value(px, ps, pm, ps2, pm2, py, step_of(s), step_of(s2), shared(m), shared(m2), shape.n,
                                shape.c, shape.pixels(), shape.last(), wide, dtype_code(y), factor, call.launcher()));
  return y;
}

std::tuple<Tensor, Tensor> add_noise_sums_cuda(const Tensor& g, const Opt& s_, const Tensor& m_, double factor,
                                               std::array<bool, 2> wanted) {
  const Shape shape(g);
  shape.check_strength(s_);
  shape.check_noise(m_);
  const Tensor gc = g.contiguous(shape.format), s = stepped(shape, s_), m = m_.contiguous();
  if (shape.empty()) {
    const auto zeros = [&](bool needed, int64_t size) {
      return needed ? at::zeros({shape.n, 1, size}, shape.sums()) : Tensor();
    };
    return shape.totals(zeros(wanted[0], shape.pixels()), zeros(wanted[1], shape.c), s_, m);
  }
  const Call call("add_noise", GK_RUNNER(add_noise), gc);
  void *pg = call.pointer(gc), *ps = call.pointer(s), *pm = call.pointer(m);
  const bool wide = aligned(pg, 16) && wide_line(shape, s, ps, pm);
  i64 over_pixels = 1, over_channels = 1;
  gk_add_noise_blocks(shape.n, shape.c, shape.pixels(), shape.last(), wide, dtype_code(gc), &over_pixels,
                      &over_channels);
  const auto room = [&](bool needed, i64 blocks, int64_t size) {
    return needed ? at::empty({shape.n, static_cast<int64_t>(blocks), size}, shape.sums()) : Tensor();
  };
  const Tensor of_pixels = room(wanted[0], over_channels, shape.pixels()),
               of_channels = room(wanted[1], over_pixels, shape.c);
  if (wanted[0] || wanted[1])
    call.check(gk_add_noise_sums(pg, ps, pm, call.pointer(of_channels), call.pointer(of_pixels), step_of(s),
                                 m.size(0) == 1, shape.n, shape.c, shape.pixels(), shape.last(), wide, dtype_code(gc),
                                 factor, call.launcher()));
  return shape.totals(of_pixels, of_channels, s_, m);
}

}  // namespace
}  // namespace gk::noise

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("add_noise", &gk::noise::add_noise_cuda);
  m.impl("add_noise_sums", &gk::noise::add_noise_sums_cuda);
}
