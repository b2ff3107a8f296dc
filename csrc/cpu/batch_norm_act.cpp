// batch_norm_act and instance_norm_act on the CPU: each kernel one job of batch_norm_act_run.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zero.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "batch_norm_act_op.h"
#include "cpu/batch_norm_act_run.h"

namespace gk::batch_norm {
namespace {

using at::Tensor;
using std::optional;

// Numbers of cells or of sets, whatever floating dtype holds them; `otherwise` where there are none.
struct Numbers {
  Tensor held;
  double otherwise;
  Numbers(const optional<Tensor>& t, double value) : otherwise(value) {
    if (t.has_value() && t->defined()) held = t->to(at::kDouble).contiguous();
  }
  double operator[](int64_t i) const { return held.defined() ? held.const_data_ptr<double>()[i] : otherwise; }
};

// A call's tensors in the layout of x, and weight and bias as numbers of cells or as tensors of that layout.
struct View {
  NormKind kind;
  at::MemoryFormat format;
  Tensor x;
  NormShape s;
  Numbers weight, bias;
  Tensor scale, shift;

  View(const Tensor& from, const optional<Tensor>& weight, const optional<Tensor>& bias, const NormKind& kind)
      : kind(kind),
        format(from.suggest_memory_format()),
        x(from.contiguous(format)),
        weight(pixels() ? std::nullopt : weight, 1),
        bias(pixels() ? std::nullopt : bias, 0),
        scale(pixels() ? dense(weight) : Tensor()),
        shift(pixels() ? dense(bias) : Tensor()) {
    int64_t inner = 1;
    for (int64_t i = 2; i < x.dim(); ++i) inner *= x.size(i);
    const int64_t n = x.size(0), c = x.size(1);
    const bool rows = format != at::MemoryFormat::Contiguous;
    if (kind.instance && !rows)
      s = {1, 1, n * c, inner, rows, false};
    else if (kind.cells())
      s = {n, 1, c, inner, rows, !kind.instance};
    else
      s = {1, n, c, inner, rows, false};
  }
  bool pixels() const { return kind.affine == NormAffine::element; }
  Tensor dense(const optional<Tensor>& t) const {
    return t.has_value() && t->defined() ? t->contiguous(format) : Tensor();
  }

  // Gradients of weight or bias: [cells] doubles to be filled, empty where they are elements' own.
  Tensor cell_grads() const { return at::zeros({pixels() ? 0 : s.cells()}, x.options().dtype(at::kDouble)); }
  // What is returned for it: of the dtype of `like` (of mean where there is none), or [0]; `element` where pixels().
  Tensor grad(bool wanted, const Tensor& values, const Tensor& element, const optional<Tensor>& like,
              const Tensor& mean) const {
    if (pixels()) return element;
    const auto dtype = like.has_value() ? like->scalar_type() : mean.scalar_type();
    return wanted ? values.to(dtype).view(kind.numbers(x)) : at::empty({0}, values.options().dtype(dtype));
  }
};

template <class T>
void read(NormTensors<T>& to, NormSource which, const Tensor& t) {
  to.source[which] = t.defined() ? t.const_data_ptr<T>() : nullptr;
}
template <class T>
void write(NormTensors<T>& to, int which, bool wanted, const Tensor& t) {
  to.target[which] = wanted && t.defined() ? t.mutable_data_ptr<T>() : nullptr;
}
template <class T>
NormTensors<T> inputs_of(const View& view) {
  NormTensors<T> to;
  read(to, kX, view.x), read(to, kScale, view.scale), read(to, kShift, view.shift);
  return to;
}

// y, which is undefined unless wanted, then mean, 1 / deviation and unbiased variance of each set.
std::array<Tensor, 4> forward(const View& view, const optional<Tensor>& running_mean,
                              const optional<Tensor>& running_var, bool training, double eps, c10::string_view act,
                              double alpha, double gain, bool wants_value = true) {
  const Tensor& x = view.x;
  const NormShape& s = view.s;
  Tensor y = wants_value ? at::empty_like(x) : Tensor();
  const auto options = x.options().dtype(at::toOpMathType(x.scalar_type()));
  Tensor mean = at::empty(view.kind.sets(x), options), r = at::empty_like(mean), var = at::empty_like(mean);
  if (x.numel() == 0) return {y, mean.zero_(), r.zero_(), var.zero_()};
  const Numbers given_mean(running_mean, 0), given_var(running_var, 0);
  const double count = s.set_size();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using C = at::opmath_type<scalar_t>;
    C *pm = mean.mutable_data_ptr<C>(), *pr = r.mutable_data_ptr<C>(), *pv = var.mutable_data_ptr<C>();
    auto tensors = inputs_of<scalar_t>(view);
    write(tensors, 0, wants_value, y);
    run<scalar_t, C>(s, NormPass::forward, parse_act(act), view.pixels(), training ? Sums::moments : Sums::none, alpha,
                     gain, {}, tensors, [&](const NormSet<C>& set) {
                       const int64_t number = s.set_of(set.first);
                       NormMoments m{count, given_mean[number], given_var[number] * count};
                       if (training) {
                         m = {};
                         for (int64_t i = 0; i < set.count; ++i)
                           m.add({double(s.cell_size()), set.sums(i)[0], set.sums(i)[1]});
                       }
                       const double invstd = 1 / std::sqrt(m.squares / count + eps);
                       pm[number] = C(m.mean);
                       pr[number] = C(invstd);
                       pv[number] = C(training ? m.squares / (count - 1) : m.squares / count);
                       for (int64_t i = 0; i < set.count; ++i) {
                         set.factor(i, 0) = pm[number];
                         set.factor(i, 1) = C(view.weight[set.cell(i)] * invstd);
                         set.factor(i, 2) = C(view.bias[set.cell(i)]);
                       }
                     });
  });
  return {y, mean, r, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_cpu(
    const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const optional<Tensor>& running_mean,
    const optional<Tensor>& running_var, bool training, double eps, c10::string_view act, double alpha, double gain) {
  const View view(x, weight, bias, check_forward(x, weight, bias, running_mean, running_var, training));
  const auto [y, mean, r, var] = forward(view, running_mean, running_var, training, eps, act, alpha, gain);
  return {y, mean, r, var};
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act_cpu(const Tensor& x, const optional<Tensor>& weight,
                                                         const optional<Tensor>& bias, double eps, c10::string_view act,
                                                         double alpha, double gain) {
  const View view(x, weight, bias, check_forward(x, weight, bias, {}, {}, true, true));
  const auto [y, mean, r, var] = forward(view, {}, {}, true, eps, act, alpha, gain);
  return {y, mean, r};
}

std::tuple<Tensor, Tensor> instance_statistics_cpu(const Tensor& x, double eps) {
  const View view(x, {}, {}, check_forward(x, {}, {}, {}, {}, true, true));
  const auto [y, mean, r, var] = forward(view, {}, {}, true, eps, "linear", 0, 1, false);
  return {mean, x.numel() ? r.reciprocal() : r};
}

// Forward's mean, weight * r and bias of each cell, in factor order.
template <class C>
std::vector<C> forward_factors(const View& view, const Tensor& mean, const Tensor& r) {
  const Tensor mc = mean.contiguous(), rc = r.contiguous();
  const C *pm = mc.const_data_ptr<C>(), *pr = rc.const_data_ptr<C>();
  const int64_t cells = view.s.cells();
  std::vector<C> out(3 * cells);
  for (int64_t i = 0; i < cells; ++i) {
    const int64_t set = view.s.set_of(i);
    out[i] = pm[set];
    out[cells + i] = C(view.weight[i] * pr[set]);
    out[2 * cells + i] = C(view.bias[i]);
  }
  return out;
}

template <class C, size_t count>
void set_factors(const NormSet<C>& set, int64_t cell, const double (&values)[count]) {
  for (size_t j = 0; j < count; ++j) set.factor(cell, int(3 + j)) = C(values[j]);
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cpu(const Tensor& gy, const Tensor& x,
                                                               const optional<Tensor>& weight,
                                                               const optional<Tensor>& bias, const Tensor& mean,
                                                               const Tensor& r, bool training, c10::string_view act,
                                                               double alpha, double gain, std::array<bool, 3> wanted) {
  const View view(x, weight, bias, check_backward(gy, x, weight, bias, mean, r));
  const Tensor gc = view.dense(gy), none;
  const NormShape& s = view.s;
  const Numbers rs(r, 1);
  Tensor gx = maybe_empty(wanted[0], view.x), gw = view.cell_grads(), gb = view.cell_grads();
  const Tensor gs = view.pixels() ? maybe_empty(wanted[1], view.x) : none;
  const Tensor gt = view.pixels() ? maybe_empty(wanted[2], view.x) : none;
  double *pw = gw.mutable_data_ptr<double>(), *pb = gb.mutable_data_ptr<double>();
  const double over = share_of_set(double(s.set_size()), training);
  const bool summed = (training && wanted[0]) || (!view.pixels() && (wanted[1] || wanted[2]));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    auto tensors = inputs_of<scalar_t>(view);
    read(tensors, kG, gc);
    write(tensors, 0, wanted[0], gx);
    write(tensors, kScaleGrad, wanted[1], gs);
    write(tensors, kShiftGrad, wanted[2], gt);
    run<scalar_t, C>(s, NormPass::backward, parse_act(act), view.pixels(), summed ? Sums::terms : Sums::none, alpha,
                     gain, forward_factors<C>(view, mean, r), tensors, [&](const NormSet<C>& set) {
                       const double r = rs[s.set_of(set.first)];
                       NormBackward<double> all;
                       for (int64_t i = 0; i < set.count; ++i)
                         all.add(set.sums(i), view.pixels() ? 1 : view.weight[set.cell(i)]);
                       all.close(over, r);
                       for (int64_t i = 0; i < set.count; ++i) {
                         if (!view.pixels()) pw[set.cell(i)] = r * set.sums(i)[1], pb[set.cell(i)] = set.sums(i)[0];
                         set_factors(set, i, {all.on_x(r), all.constant(r)});
                       }
                     });
  });
  return {gx, view.grad(wanted[1], gw, gs, weight, mean), view.grad(wanted[2], gb, gt, bias, mean)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_double_backward_cpu(
    const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
    const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean, const Tensor& r, bool training,
    c10::string_view act, double alpha, double gain, std::array<bool, 4> wanted) {
  const View view(x, weight, bias, check_double_backward(v, p, q, gy, x, weight, bias, mean, r));
  const NormShape& s = view.s;
  const bool pixels = view.pixels(), curved = !piecewise_linear(parse_act(act));
  const Tensor gc = view.dense(gy), vc = view.dense(v), none;
  const Tensor pc = pixels ? view.dense(p) : none, qc = pixels ? view.dense(q) : none;
  const Numbers rs(r, 1), ps(pixels ? std::nullopt : p, 0), qs(pixels ? std::nullopt : q, 0);
  Tensor ggy = maybe_empty(wanted[0], view.x), gx = maybe_empty(wanted[1], view.x);
  const Tensor gs = pixels ? maybe_empty(wanted[2], view.x) : none, gt = pixels ? maybe_empty(wanted[3], view.x) : none;
  Tensor gw = view.cell_grads(), gb = view.cell_grads();
  double *pw = gw.mutable_data_ptr<double>(), *pb = gb.mutable_data_ptr<double>();
  const double over = share_of_set(double(s.set_size()), training);
  const bool summed = training || (!pixels && (wanted[2] || wanted[3]));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_double_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    auto tensors = inputs_of<scalar_t>(view);
    read(tensors, kG, gc), read(tensors, kV, vc), read(tensors, kP, pc), read(tensors, kQ, qc);
    write(tensors, 0, wanted[0], ggy), write(tensors, 1, wanted[1], gx);
    write(tensors, kScaleGrad, wanted[2], gs), write(tensors, kShiftGrad, wanted[3], gt);
    run<scalar_t, C>(
        s, NormPass::second, parse_act(act), pixels, summed ? Sums::terms : Sums::none, alpha, gain,
        forward_factors<C>(view, mean, r), tensors, [&](const NormSet<C>& set) {
          const double r = rs[s.set_of(set.first)];
          NormSecond<double> all;
          if (pixels) {
            if (curved)
              all.add_pixels<true>(set.sums(0), over, r);
            else
              all.add_pixels<false>(set.sums(0), over, r);
            return set_factors(set, 0, {all.v_mean, r * all.v_slope, all.on_v(r), all.on_x(r), all.constant(r)});
          }
          for (int64_t i = 0; i < set.count; ++i) all.add(set.sums(i), view.weight[set.cell(i)], ps[set.cell(i)]);
          all.close(over, r);
          for (int64_t i = 0; i < set.count; ++i) {
            const int64_t cell = set.cell(i);
            const NormSecondCell<double> k(all, view.weight[cell], r, ps[cell], qs[cell]);
            k.add_to(all, set.sums(i), view.weight[cell], over, r);
            pw[cell] = k.weight_grad(all, set.sums(i), r), pb[cell] = k.bias_grad(set.sums(i));
          }
          for (int64_t i = 0; i < set.count; ++i) {
            const NormSecondCell<double> k(all, view.weight[set.cell(i)], r, ps[set.cell(i)], qs[set.cell(i)]);
            set_factors(set, i, {k.t_on_x, k.t_constant, all.on_v(r), all.on_x(r), all.constant(r)});
          }
        });
  });
  return {ggy, gx, view.grad(wanted[2], gw, gs, weight, mean), view.grad(wanted[3], gb, gt, bias, mean)};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("batch_norm_act", &batch_norm_act_cpu);
  m.impl("batch_norm_act_backward", &batch_norm_act_backward_cpu);
  m.impl("batch_norm_act_double_backward", &batch_norm_act_double_backward_cpu);
  m.impl("instance_norm_act", &instance_norm_act_cpu);
  m.impl("instance_statistics", &instance_statistics_cpu);
}

}  // namespace gk::batch_norm
