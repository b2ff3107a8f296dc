// batch_norm_act on the CPU: its three kernels, each one job of batch_norm_act_run.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zero.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "batch_norm_act_op.h"
#include "cpu/batch_norm_act_run.h"

namespace gk::batch_norm {
namespace {

using at::Tensor;
using std::optional;

// A number a channel, whatever floating dtype holds it; `otherwise` where there is none.
struct PerChannel {
  Tensor held;
  double otherwise;
  PerChannel(const optional<Tensor>& t, double value) : otherwise(value) {
    if (t.has_value() && t->defined()) held = t->to(at::kDouble).contiguous();
  }
  double operator[](int64_t c) const { return held.defined() ? held.const_data_ptr<double>()[c] : otherwise; }
};

NormShape shape_of(const Tensor& x, at::MemoryFormat format) {
  NormShape s{x.size(0), x.size(1), 1, format != at::MemoryFormat::Contiguous};
  for (int64_t i = 2; i < x.dim(); ++i) s.inner *= x.size(i);
  return s;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_cpu(
    const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const optional<Tensor>& running_mean,
    const optional<Tensor>& running_var, bool training, double eps, c10::string_view act, double alpha, double gain) {
  check_forward(x, weight, bias, running_mean, running_var, training);
  const auto format = x.suggest_memory_format();
  const Tensor xc = x.contiguous(format);
  Tensor y = at::empty_like(xc);
  const NormShape s = shape_of(xc, format);
  const auto options = x.options().dtype(at::toOpMathType(x.scalar_type()));
  Tensor mean = at::empty({s.channels}, options), r = at::empty({s.channels}, options);
  Tensor var = at::empty({s.channels}, options);
  if (xc.numel() == 0) return {y, mean.zero_(), r.zero_(), var.zero_()};
  const PerChannel w(weight, 1), b(bias, 0), given_mean(running_mean, 0), given_var(running_var, 0);
  const Act a = parse_act(act);
  const double count = s.batch * s.inner;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using C = at::opmath_type<scalar_t>;
    C *pm = mean.mutable_data_ptr<C>(), *pr = r.mutable_data_ptr<C>(), *pv = var.mutable_data_ptr<C>();
    run<scalar_t, C>(s, NormPass::forward, a, training ? Sums::moments : Sums::none, alpha, gain, {},
                     {xc.const_data_ptr<scalar_t>()}, {y.mutable_data_ptr<scalar_t>()},
                     [&](int64_t c, const double* sums, C* factors, int64_t pitch) {
                       const double biased = !training ? given_var[c] : count > 0 ? sums[1] / count : 0;
                       const double invstd = 1 / std::sqrt(biased + eps);
                       factors[0] = pm[c] = C(training ? sums[0] : given_mean[c]);
                       factors[pitch] = C(w[c] * invstd);
                       factors[2 * pitch] = C(b[c]);
                       pr[c] = C(invstd);
                       pv[c] = C(training ? sums[1] / (count - 1) : biased);
                     });
  });
  return {y, mean, r, var};
}

// Forward's mean, weight * r and bias of each channel, in factor order.
template <class C>
std::vector<C> forward_factors(int64_t channels, const Tensor& mean, const Tensor& r, const PerChannel& w,
                               const PerChannel& b) {
  const Tensor mc = mean.contiguous(), rc = r.contiguous();
  const C *pm = mc.const_data_ptr<C>(), *pr = rc.const_data_ptr<C>();
  std::vector<C> out(3 * channels);
  for (int64_t c = 0; c < channels; ++c) {
    out[c] = pm[c];
    out[channels + c] = C(w[c] * pr[c]);
    out[2 * channels + c] = C(b[c]);
  }
  return out;
}

// [channels] of the dtype of `like` (of mean where there is none), or [0]; `values` are double.
Tensor parameter_grad(bool wanted, const Tensor& values, const optional<Tensor>& like, const Tensor& mean) {
  const auto dtype = like.has_value() ? like->scalar_type() : mean.scalar_type();
  return wanted ? values.to(dtype) : at::empty({0}, values.options().dtype(dtype));
}

template <class T>
T* data_or_null(bool wanted, const Tensor& t) {
  return wanted ? t.mutable_data_ptr<T>() : nullptr;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cpu(const Tensor& gy, const Tensor& x,
                                                               const optional<Tensor>& weight,
                                                               const optional<Tensor>& bias, const Tensor& mean,
                                                               const Tensor& r, bool training, c10::string_view act,
                                                               double alpha, double gain, std::array<bool, 3> wanted) {
  check_backward(gy, x, weight, bias, mean, r);
  const auto format = x.suggest_memory_format();
  const Tensor xc = x.contiguous(format), gc = gy.contiguous(format);
  const NormShape s = shape_of(xc, format);
  const PerChannel w(weight, 1), b(bias, 0), rs(r, 1);
  Tensor gx = maybe_empty(wanted[0], xc);
  Tensor gw = at::zeros({s.channels}, x.options().dtype(at::kDouble)), gb = at::zeros_like(gw);
  double *pw = gw.mutable_data_ptr<double>(), *pb = gb.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    run<scalar_t, C>(
        s, NormPass::backward, parse_act(act), training || wanted[1] || wanted[2] ? Sums::terms : Sums::none, alpha,
        gain, forward_factors<C>(s.channels, mean, r, w, b),
        {xc.const_data_ptr<scalar_t>(), gc.const_data_ptr<scalar_t>()}, {data_or_null<scalar_t>(wanted[0], gx)},
        [&](int64_t c, const double* sums, C* factors, int64_t pitch) {
          const NormBackward k(sums, double(s.batch * s.inner), training, w[c], rs[c]);
          pw[c] = k.grad_weight, pb[c] = k.grad_bias;
          const double values[] = {k.on_d, k.on_x, k.constant};
          for (int j = 0; j < 3; ++j) factors[(3 + j) * pitch] = C(values[j]);
        });
  });
  return {gx, parameter_grad(wanted[1], gw, weight, mean), parameter_grad(wanted[2], gb, bias, mean)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_double_backward_cpu(
    const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
    const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean, const Tensor& r, bool training,
    c10::string_view act, double alpha, double gain, std::array<bool, 4> wanted) {
  check_double_backward(v, p, q, gy, x, weight, bias, mean, r);
  const auto format = x.suggest_memory_format();
  const Tensor xc = x.contiguous(format), gc = gy.contiguous(format);
  const Tensor vc = v.has_value() ? v->contiguous(format) : at::zeros_like(xc);
  const NormShape s = shape_of(xc, format);
  const PerChannel w(weight, 1), b(bias, 0), rs(r, 1), ps(p, 0), qs(q, 0);
  Tensor ggy = maybe_empty(wanted[0], xc), gx = maybe_empty(wanted[1], xc);
  Tensor gw = at::zeros({s.channels}, x.options().dtype(at::kDouble)), gb = at::zeros_like(gw);
  double *pw = gw.mutable_data_ptr<double>(), *pb = gb.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_double_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    run<scalar_t, C>(s, NormPass::second, parse_act(act), training || wanted[2] || wanted[3] ? Sums::terms : Sums::none,
                     alpha, gain, forward_factors<C>(s.channels, mean, r, w, b),
                     {xc.const_data_ptr<scalar_t>(), gc.const_data_ptr<scalar_t>(), vc.const_data_ptr<scalar_t>()},
                     {data_or_null<scalar_t>(wanted[0], ggy), data_or_null<scalar_t>(wanted[1], gx)},
                     [&](int64_t c, const double* sums, C* factors, int64_t pitch) {
                       const NormSecond k(sums, double(s.batch * s.inner), training, w[c], rs[c], ps[c], qs[c]);
                       pw[c] = k.grad_weight, pb[c] = k.grad_bias;
                       const double values[] = {k.t_on_v, k.t_on_x, k.t_constant, k.on_ht,
                                                k.on_d,   k.on_v,   k.on_x,       k.constant};
                       for (int j = 0; j < 8; ++j) factors[(3 + j) * pitch] = C(values[j]);
                     });
  });
  return {ggy, gx, parameter_grad(wanted[2], gw, weight, mean), parameter_grad(wanted[3], gb, bias, mean)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("batch_norm_act", &batch_norm_act_cpu);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward_cpu);
  m.impl("batch_norm_act_double_backward", &batch_norm_act_double_backward_cpu);
}

}  // namespace gk::batch_norm
