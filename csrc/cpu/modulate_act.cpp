// modulate_act and weight_power on the CPU: value, backward and double backward are one pass each, all sums included.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>

#include "cpu/huge_pages.h"
#include "cpu/modulate_act_run.h"
#include "modulate_act_op.h"

#define GK_ISA_SPACE gk::modulate
#define GK_ISA_FILE "cpu/modulate_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::modulate {
namespace {

Layout layout_of(const Shape& s) {
  return s.channels_last() ? Layout{s.n(), s.pixels(), s.c(), true} : Layout{s.n(), s.c(), s.pixels(), false};
}

Tensor fresh(const Shape& shape, bool wanted) {
  const Tensor t = shape.fresh(wanted);
  if (wanted) prefer_huge_pages(t);
  return t;
}

template <class T>
const T* data(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}
template <class T>
T* out_data(const Tensor& t, bool wanted) {
  return wanted ? t.mutable_data_ptr<T>() : nullptr;
}

template <class C>
Small<C> scale_of(const Tensor& t, int64_t channels, C otherwise) {
  return {data<C>(t), nullptr, channels, 0, otherwise};
}
template <class C>
Small<C> shift_of(const Tensor& noise, const Tensor& bias, int64_t pixels) {
  return {data<C>(bias), data<C>(noise), 0, noise.defined() && noise.size(0) > 1 ? pixels : 0, 0};
}

// Partial sums of a quantity by unit, and their total. `shared`: one result for all samples.
class Partial {
 public:
  Partial(const Layout& l, bool wanted, bool by_channel) : outer_(by_channel != l.last) {
    if (!wanted) return;
    const int64_t blocks = outer_ ? l.inner_blocks : l.outer_blocks;
    held_ = at::zeros({l.batch, blocks, outer_ ? l.outer : l.inner}, at::kDouble);
  }
  double* data() const { return held_.defined() ? held_.mutable_data_ptr<double>() : nullptr; }
  Tensor total(bool shared, at::IntArrayRef shape, const at::TensorOptions& options) const {
    if (!held_.defined()) return at::empty({0}, options);
    return at::sum(held_, shared ? at::IntArrayRef({0, 1}) : at::IntArrayRef({1})).to(options.dtype()).view(shape);
  }

 private:
  bool outer_;
  Tensor held_;
};

// The three sums of a derivative: for the scale, the bias and the noise.
struct Partials {
  Partial scale, bias, noise;
  Partials(const Layout& l, bool s, bool n, bool b) : scale(l, s, true), bias(l, b, true), noise(l, n, false) {}
  template <class J>
  void into(J& job) const {
    job.of_scale.channel = scale.data();
    job.of_shift = {bias.data(), noise.data()};
  }
};

template <class F>
void each_unit(const Layout& l, F f) {
  if (l.batch * l.outer * l.inner == 0) return;
  const int64_t a_unit = l.inner_block * l.outer_block;
  at::parallel_for(0, l.units(), std::max<int64_t>(1, kUnit / a_unit), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) f(unit);
  });
}

ActParams params(double alpha, double gain, double clamp) { return {alpha, gain, clamp < 0 ? INFINITY : clamp}; }
bool is_bare(Act act, double clamp) { return act == Act::linear && clamp < 0; }

void run_value(const Tensor& x, const Tensor& y, const Shape& shape, const Opt& scale, const Opt& noise,
               const Opt& bias, c10::string_view act, double alpha, double gain, double clamp) {
  const Layout l = layout_of(shape);
  const Tensor s = shape.channels(scale, "scale", true), m = shape.pixels(noise, "noise"),
               b = shape.channels(bias, "bias", false);
  const Act a = parse_act(act);
  const ActParams p = params(alpha, gain, clamp);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "modulate_act", [&] {
    using C = at::opmath_type<scalar_t>;
    Job<scalar_t, C> job;
    job.x = data<scalar_t>(x);
    job.out = y.mutable_data_ptr<scalar_t>();
    job.scale = scale_of<C>(s, l.channels(), 1);
    job.shift = shift_of<C>(m, b, l.pixels());
    each_unit(l, [&](int64_t unit) { GK_ISA_CALL(gk::modulate, value_unit, l, unit, job, a, p); });
  });
}

Tensor value(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, c10::string_view act, double alpha,
             double gain, double clamp) {
  const Shape shape(x, "x");
  const Tensor y = fresh(shape, true);
  run_value(shape.image(x, "x"), y, shape, scale, noise, bias, act, alpha, gain, clamp);
  return y;
}

void value_in_place(const Tensor& x, const Opt& scale, const Opt& noise, const Opt& bias, c10::string_view act,
                    double alpha, double gain, double clamp) {
  const Shape shape(x, "x");
  check_dense(x, shape);
  run_value(x, x, shape, scale, noise, bias, act, alpha, gain, clamp);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& g, const Opt& x, const Opt& scale, const Opt& noise,
                                                    const Opt& bias, c10::string_view act, double alpha, double gain,
                                                    double clamp, std::array<bool, 4> wanted) {
  const Shape shape(x.has_value() ? *x : g, "x");
  const Layout l = layout_of(shape);
  const Act a = parse_act(act);
  const ActParams p = params(alpha, gain, clamp);
  const bool bare = is_bare(a, clamp);
  check_x(x, act, clamp, wanted[1], "modulate_act_backward");
  const Tensor gc = shape.image(g, "g"), xc = shape.image(x, "x"), s = shape.channels(scale, "scale", true),
               m = shape.pixels(noise, "noise"), b = shape.channels(bias, "bias", false);
  const Tensor gx = fresh(shape, wanted[0]);
  const Partials sums(l, wanted[1], wanted[2], wanted[3]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "modulate_act_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    Job<scalar_t, C> job;
    job.g = data<scalar_t>(gc);
    job.x = data<scalar_t>(xc);
    job.out = out_data<scalar_t>(gx, wanted[0]);
    job.scale = scale_of<C>(s, l.channels(), 1);
    job.shift = shift_of<C>(m, b, l.pixels());
    sums.into(job);
    each_unit(l, [&](int64_t unit) { GK_ISA_CALL(gk::modulate, backward_unit, l, unit, job, a, p, bare); });
  });
  return {gx, sums.scale.total(false, {g.size(0), g.size(1)}, shape.sums()),
          sums.noise.total(m.defined() && m.size(0) != g.size(0), m.defined() ? m.sizes() : at::IntArrayRef(),
                           shape.sums()),
          sums.bias.total(true, {g.size(1)}, shape.sums())};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> double_backward(const Tensor& g, const Opt& x, const Opt& scale,
                                                                   const Opt& noise, const Opt& bias, const Opt& h,
                                                                   const Opt& h_scale, const Opt& h_noise,
                                                                   const Opt& h_bias, c10::string_view act,
                                                                   double alpha, double gain, double clamp,
                                                                   std::array<bool, 5> wanted) {
  const Shape shape(x.has_value() ? *x : g, "x");
  const Layout l = layout_of(shape);
  const Act a = parse_act(act);
  const ActParams p = params(alpha, gain, clamp);
  const bool bare = is_bare(a, clamp);
  check_x(x, act, clamp, h_scale.has_value(), "modulate_act_double_backward");
  const Tensor gc = shape.image(g, "g"), xc = shape.image(x, "x"), hc = shape.image(h, "h"),
               s = shape.channels(scale, "scale", true), m = shape.pixels(noise, "noise"),
               b = shape.channels(bias, "bias", false), hs = shape.channels(h_scale, "h_scale", true),
               hm = shape.pixels(h_noise, "h_noise"), hb = shape.channels(h_bias, "h_bias", false);
  const Tensor out_g = fresh(shape, wanted[0]), out_x = fresh(shape, wanted[1]);
  const Partials sums(l, wanted[2], wanted[3], wanted[4]);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "modulate_act_double_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    Job<scalar_t, C> job;
    job.g = data<scalar_t>(gc);
    job.x = data<scalar_t>(xc);
    job.h = data<scalar_t>(hc);
    job.out_g = out_data<scalar_t>(out_g, wanted[0]);
    job.out = out_data<scalar_t>(out_x, wanted[1]);
    job.scale = scale_of<C>(s, l.channels(), 1);
    job.shift = shift_of<C>(m, b, l.pixels());
    job.h_scale = scale_of<C>(hs, l.channels(), 0);
    job.h_shift = shift_of<C>(hm, hb, l.pixels());
    sums.into(job);
    each_unit(l, [&](int64_t unit) { GK_ISA_CALL(gk::modulate, second_unit, l, unit, job, a, p, bare); });
  });
  return {out_g, out_x, sums.scale.total(false, {g.size(0), g.size(1)}, shape.sums()),
          sums.noise.total(m.defined() && m.size(0) != g.size(0), m.defined() ? m.sizes() : at::IntArrayRef(),
                           shape.sums()),
          sums.bias.total(true, {g.size(1)}, shape.sums())};
}

Tensor weight_power(const Tensor& weight) {
  TORCH_CHECK_VALUE(weight.dim() == 4, "weight_power: weight has shape ", weight.sizes(), ", expected [O, I, kh, kw]");
  const Tensor w = weight.contiguous();
  const int64_t rows = w.size(0) * w.size(1), length = w.size(2) * w.size(3);
  const Tensor out = at::zeros({w.size(0), w.size(1)}, w.options().dtype(at::toOpMathType(w.scalar_type())));
  if (w.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, w.scalar_type(), "weight_power", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t* from = w.const_data_ptr<scalar_t>();
    C* to = out.mutable_data_ptr<C>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kUnit / length), [&](int64_t begin, int64_t end) {
      GK_ISA_CALL(gk::modulate, power_run, from + begin * length, to + begin, end - begin, length);
    });
  });
  return out;
}

}  // namespace
}  // namespace gk::modulate

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("modulate_act", &gk::modulate::value);
  m.impl("modulate_act_", &gk::modulate::value_in_place);
  m.impl("modulate_act_backward", &gk::modulate::backward);
  m.impl("modulate_act_double_backward", &gk::modulate::double_backward);
  m.impl("weight_power", &gk::modulate::weight_power);
}
