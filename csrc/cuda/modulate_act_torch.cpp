// modulate_act and weight_power on the GPU: torch tensors to entries. PyTorch adds up the sums of blocks.
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>

#include "device.h"
#include "modulate_act_op.h"
#include "modulate_act_params.h"

GK_DECLARE_RUNNER(modulate_act);

namespace gk::modulate {
namespace {

struct Numbers {
  c10::string_view act;
  double alpha, gain, clamp;
};

// One launch: the sizes as its kernel sees them, and its tensors.
class Pass {
 public:
  Pass(const Shape& shape, int order)
      : shape_(shape), order_(order), empty_(shape.n() * shape.c() * shape.pixels() == 0) {
    last = shape.channels_last() || shape.pixels() == 1;
    outer = last ? shape.pixels() : shape.c();
    inner = last ? shape.c() : shape.pixels();
  }

  // The sums of blocks for a gradient, and of all blocks once they are written.
  struct Sums {
    Tensor held;
    Tensor total(at::IntArrayRef shape, bool shared, const at::TensorOptions& options) const {
      if (!held.defined()) return at::empty({0}, options);
      if (shared && held.size(0) != 1) return at::sum(held, {0, 1}).view(shape);
      return (held.size(1) == 1 ? held : at::sum(held, 1)).view(shape);
    }
  };
  Sums sums(bool wanted, bool of_channels, bool wide, i64 dtype) const {
    if (!wanted) return {};
    i64 outer_blocks = 1, inner_blocks = 1;
    if (!empty_) gk_modulate_act_blocks(shape_.n(), outer, inner, wide, dtype, order_, &outer_blocks, &inner_blocks);
    const bool along_inner = of_channels == last;
    const std::array<int64_t, 3> size{shape_.n(), along_inner ? outer_blocks : inner_blocks,
                                      along_inner ? inner : outer};
    return {empty_ ? at::zeros(size, shape_.sums()) : at::empty(size, shape_.sums())};
  }
  bool empty() const { return empty_; }

  i64 outer, inner;
  bool last;

 private:
  const Shape& shape_;
  int order_;
  bool empty_;
};

template <class... Pointers>
bool all_wide(Pointers... pointers) {
  return (aligned(pointers, 16) && ...);
}

void run_value(const Tensor& x, const Tensor& y, const Shape& shape, const Opt& scale, const Opt& noise,
               const Opt& bias, const Numbers& n) {
  const Tensor s = shape.channels(scale, "scale", true), m = shape.pixels(noise, "noise"),
               b = shape.channels(bias, "bias", false);
  const Pass pass(shape, 0);
  if (pass.empty()) return;
  const Call call("modulate_act", GK_RUNNER(modulate_act), x);
  void *px = call.pointer(x), *py = call.pointer(y), *ps = call.pointer(s), *pm = call.pointer(m),
       *pb = call.pointer(b);
  call.check(gk_modulate_act_forward(px, ps, pm, pb, py, shape.n(), pass.outer, pass.inner, pass.last,
                                     m.defined() && m.size(0) == 1, all_wide(px, py, ps, pm, pb), dtype_code(x),
                                     static_cast<i64>(parse_act(n.act)), n.alpha, n.gain, n.clamp, call.launcher()));
}

Tensor value(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, c10::string_view act, double alpha,
             double gain, double clamp) {
  const Shape shape(x, "x");
  const Tensor y = shape.fresh(true);
  run_value(shape.image(x, "x"), y, shape, scale, noise, bias, {act, alpha, gain, clamp});
  return y;
}

void value_in_place(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, c10::string_view act,
                    double alpha, double gain, double clamp) {
  const Shape shape(x, "x");
  check_dense(x, shape);
  run_value(x, x, shape, scale, noise, bias, {act, alpha, gain, clamp});
}

// Gradients of scale, noise and bias.
struct Gradients {
  Pass::Sums scale, noise, bias;

  Gradients(const Pass& pass, std::array<bool, 3> wanted, bool wide, i64 dtype)
      : scale(pass.sums(wanted[0], true, wide, dtype)),
        noise(pass.sums(wanted[1], false, wide, dtype)),
        bias(pass.sums(wanted[2], true, wide, dtype)) {}
  Tensor of_scale(const Shape& s) const { return scale.total({s.n(), s.c()}, false, s.sums()); }
  Tensor of_noise(const Shape& s, const Tensor& m) const {
    return noise.total(m.defined() ? m.sizes() : at::IntArrayRef(), m.defined() && m.size(0) != s.n(), s.sums());
  }
  Tensor of_bias(const Shape& s) const { return bias.total({s.c()}, true, s.sums()); }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise,
                                                    const Opt& bias, c10::string_view act, double alpha, double gain,
                                                    double clamp, std::array<bool, 4> wanted) {
  check_x(x, act, clamp, wanted[1], "modulate_act_backward");
  const Shape shape(x.has_value() ? *x : g, "x");
  const Tensor gc = shape.image(g, "g"), xc = shape.image(x, "x"), s = shape.channels(scale, "scale", true),
               m = shape.pixels(noise, "noise"), b = shape.channels(bias, "bias", false);
  const Tensor gx = shape.fresh(wanted[0]);
  const Pass pass(shape, 1);
  const Call call("modulate_act", GK_RUNNER(modulate_act), gc);
  void *pg = call.pointer(gc), *px = call.pointer(xc), *ps = call.pointer(s), *pm = call.pointer(m),
       *pb = call.pointer(b), *pgx = wanted[0] ? call.pointer(gx) : nullptr;
  const bool wide = all_wide(pg, px, ps, pm, pb, pgx);
  const Gradients sums(pass, {wanted[1], wanted[2], wanted[3]}, wide, dtype_code(gc));
  if (!pass.empty())
    call.check(gk_modulate_act_backward(
        pg, px, ps, pm, pb, pgx, call.pointer(sums.scale.held), call.pointer(sums.noise.held),
        call.pointer(sums.bias.held), shape.n(), pass.outer, pass.inner, pass.last, m.defined() && m.size(0) == 1, wide,
        dtype_code(gc), static_cast<i64>(parse_act(act)), alpha, gain, clamp, call.launcher()));
  return {gx, sums.of_scale(shape), sums.of_noise(shape, m), sums.of_bias(shape)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> double_backward(const Tensor& g, const Opt& x, const Opt& scale,
                                                                   const Opt& noise, const Opt& bias, const Opt& h,
                                                                   const Opt& h_scale, const Opt& h_noise,
                                                                   const Opt& h_bias, c10::string_view act,
                                                                   double alpha, double gain, double clamp,
                                                                   std::array<bool, 5> wanted) {
  check_x(x, act, clamp, h_scale.has_value(), "modulate_act_double_backward");
  const Shape shape(x.has_value() ? *x : g, "x");
  const Tensor gc = shape.image(g, "g"), xc = shape.image(x, "x"), hc = shape.image(h, "h"),
               s = shape.channels(scale, "scale", true), m = shape.pixels(noise, "noise"),
               b = shape.channels(bias, "bias", false), hs = shape.channels(h_scale, "h_scale", true),
               hm = shape.pixels(h_noise, "h_noise"), hb = shape.channels(h_bias, "h_bias", false);
  const Tensor out_g = shape.fresh(wanted[0]), out_x = shape.fresh(wanted[1]);
  const Pass pass(shape, 2);
  const Call call("modulate_act", GK_RUNNER(modulate_act), gc);
  void *pg = call.pointer(gc), *px = call.pointer(xc), *ph = call.pointer(hc), *ps = call.pointer(s),
       *pm = call.pointer(m), *pb = call.pointer(b), *phs = call.pointer(hs), *phm = call.pointer(hm),
       *phb = call.pointer(hb), *to_g = wanted[0] ? call.pointer(out_g) : nullptr,
       *to_x = wanted[1] ? call.pointer(out_x) : nullptr;
  const bool wide = all_wide(pg, px, ph, ps, pm, pb, phs, phm, phb, to_g, to_x);
  const bool shared = (m.defined() && m.size(0) == 1) || (hm.defined() && hm.size(0) == 1);
  const Gradients sums(pass, {wanted[2], wanted[3], wanted[4]}, wide, dtype_code(gc));
  if (!pass.empty())
    call.check(gk_modulate_act_second(pg, px, ps, pm, pb, ph, phs, phm, phb, to_g, to_x, call.pointer(sums.scale.held),
                                      call.pointer(sums.noise.held), call.pointer(sums.bias.held), shape.n(),
                                      pass.outer, pass.inner, pass.last, shared, wide, dtype_code(gc),
                                      static_cast<i64>(parse_act(act)), alpha, gain, clamp, call.launcher()));
  return {out_g, out_x, sums.of_scale(shape), sums.of_noise(shape, m), sums.of_bias(shape)};
}

// Sums of squares of kernels: the gradient of a scale.
Tensor weight_power(const Tensor& weight) {
  return std::get<1>(backward(weight, weight, {}, {}, {}, "linear", 0, 1, -1, {false, true, false, false}));
}

}  // namespace
}  // namespace gk::modulate

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("modulate_act", &gk::modulate::value);
  m.impl("modulate_act_", &gk::modulate::value_in_place);
  m.impl("modulate_act_backward", &gk::modulate::backward);
  m.impl("modulate_act_double_backward", &gk::modulate::double_backward);
  m.impl("weight_power", &gk::modulate::weight_power);
}
