// batch_norm_act on the CPU. Contiguous: a thread owns channels, and reads one again while it is in its cache.
// channels_last: threads take blocks of rows, each with its own sums; what is added in which order depends on sizes alone.
#include "batch_norm_act.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "bias_act_op.h"
#include "cpu/isa.h"

#if defined(__clang__)
#define GK_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define GK_IVDEP _Pragma("GCC ivdep")
#else
#define GK_IVDEP
#endif

// A space of its own: the loops' names must be no other operator's.
namespace gk::batch_norm {

constexpr int kLanes = 32, kMostFactors = 11, kMostTerms = NormSecond::kSums;
constexpr int64_t kTile = 512, kStrip = 128, kFlush = 16;

enum class NormPass { mean, spread, forward, backward, second };

template <class C>
struct ActNumbers {
  C alpha, gain;
};

struct NormShape {
  int64_t batch, channels, inner;
  bool rows;  // [batch * inner, channels] in memory
};

template <class C>
struct NormTiles {
  void (*reduce)(const C* const*, int64_t, const C*, int64_t, const ActNumbers<C>&, double*, C*);
  void (*map)(const C* const*, int64_t, const C*, int64_t, const ActNumbers<C>&, C* const*);
  int terms;
};

struct NormMoments {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean

  // Of n numbers with this sum whose squared distances from `centre`, about their mean, add up to `squares`.
  static NormMoments about(double centre, double sum, double squares, int64_t n) {
    const double mean = sum / n, off = mean - centre;
    return {double(n), mean, squares - n * off * off};
  }
  void add(const NormMoments& other) {
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    squares += other.squares + delta * delta * (count * other.count / total);
    count = total;
  }
};

}  // namespace gk::batch_norm

#define GK_ISA_SPACE gk::batch_norm
#define GK_ISA_FILE "cpu/batch_norm_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::batch_norm {
namespace {

using at::Tensor;
using std::optional;

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

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
  if (s.inner == 1) s.rows = true;
  return s;
}

int64_t rows_per_block(const NormShape& s) { return std::max<int64_t>(32, kGrain / std::max<int64_t>(s.channels, 1)); }

template <class F>
void each_row_block(const NormShape& s, F f) {
  const int64_t rows = s.batch * s.inner, step = rows_per_block(s);
  at::parallel_for(0, (rows + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * step, std::min(rows, (b + 1) * step));
  });
}

template <class F>
void each_channel(const NormShape& s, F f) {
  const int64_t size = s.batch * s.inner;
  at::parallel_for(0, s.channels, std::max<int64_t>(1, kGrain / std::max<int64_t>(size, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t c = begin; c < end; ++c) f(c);
                   });
}

template <class C>
NormTiles<C> tiles_for(const NormShape& s, NormPass pass, Act act) {
  if (s.rows) return GK_ISA_CALL(gk::batch_norm, row_tiles<C>, pass, act);
  return GK_ISA_CALL(gk::batch_norm, channel_tiles<C>, pass, act);
}

// One pass over the tensors after another: sums (where `reduce`), then `factors_of(channel, sums, factors)`, then values.
template <class T, class C, class F>
void run_passes(const NormShape& s, const NormTiles<C>& tiles, const T* const* source, T* const* target, bool reduce,
                const std::vector<C>& before, const ActNumbers<C>& numbers, F factors_of) {
  const bool writes = target[0] != nullptr || target[1] != nullptr;
  if (!s.rows) {
    each_channel(s, [&](int64_t c) {
      C factors[kMostFactors] = {};
      double sums[kMostTerms] = {};
      for (int j = 0; j < 3; ++j) factors[j] = before[j * s.channels + c];
      if (reduce) GK_ISA_CALL(gk::batch_norm, reduce_channel, s, c, tiles, source, factors, numbers, sums);
      factors_of(c, sums, factors + 3, 1);
      if (writes) GK_ISA_CALL(gk::batch_norm, map_channel, s, c, tiles, source, factors, numbers, target);
    });
    return;
  }
  std::vector<C> factors(kMostFactors * s.channels, C(0));
  std::copy(before.begin(), before.end(), factors.begin());
  const int64_t rows = s.batch * s.inner, blocks = (rows + rows_per_block(s) - 1) / rows_per_block(s);
  const int64_t width = tiles.terms * s.channels;
  std::vector<double> partial(reduce ? blocks * width : 0, 0.0);
  if (reduce)
    each_row_block(s, [&](int64_t b, int64_t begin, int64_t end) {
      double* totals = partial.data() + b * width;
      GK_ISA_CALL(gk::batch_norm, reduce_rows, s.channels, begin, end, tiles, source, factors.data(), numbers, totals);
    });
  for (int64_t c = 0; c < s.channels; ++c) {
    double sums[kMostTerms] = {};
    for (int64_t b = 0; reduce && b < blocks; ++b)
      for (int k = 0; k < tiles.terms; ++k) sums[k] += partial[b * width + k * s.channels + c];
    factors_of(c, sums, factors.data() + 3 * s.channels + c, s.channels);
  }
  if (writes)
    each_row_block(s, [&](int64_t, int64_t begin, int64_t end) {
      GK_ISA_CALL(gk::batch_norm, map_rows, s.channels, begin, end, tiles, source, factors.data(), numbers, target);
    });
}

template <class T, class C>
std::vector<NormMoments> row_moments_of(const NormShape& s, const T* x) {
  const int64_t rows = s.batch * s.inner, blocks = (rows + rows_per_block(s) - 1) / rows_per_block(s);
  std::vector<NormMoments> partial(blocks * s.channels);
  each_row_block(s, [&](int64_t b, int64_t begin, int64_t end) {
    std::vector<double> sums(2 * s.channels);
    std::vector<C> centre(kMostFactors * s.channels);
    GK_ISA_CALL(gk::batch_norm, row_moments, s.channels, begin, end, x, sums.data(), centre.data(),
                partial.data() + b * s.channels);
  });
  std::vector<NormMoments> all(s.channels);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t c = 0; c < s.channels; ++c) all[c].add(partial[b * s.channels + c]);
  return all;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_cpu(
    const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const optional<Tensor>& running_mean,
    const optional<Tensor>& running_var, bool training, double eps, c10::string_view act, double alpha, double gain) {
  const auto format = x.suggest_memory_format();
  const Tensor xc = x.contiguous(format);
  Tensor y = at::empty_like(xc);
  const NormShape s = shape_of(xc, format);
  const auto options = x.options().dtype(at::toOpMathType(x.scalar_type()));
  Tensor mean = at::empty({s.channels}, options), r = at::empty({s.channels}, options);
  Tensor var = at::empty({s.channels}, options);
  const PerChannel w(weight, 1), b(bias, 0), given_mean(running_mean, 0), given_var(running_var, 0);
  const Act a = parse_act(act);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t* px = xc.const_data_ptr<scalar_t>();
    C *pm = mean.mutable_data_ptr<C>(), *pr = r.mutable_data_ptr<C>(), *pv = var.mutable_data_ptr<C>();
    const auto finish = [&](int64_t c, const NormMoments& m, C* factors, int64_t pitch) {
      const double biased = !training ? given_var[c] : m.count > 0 ? m.squares / m.count : 0;
      const double invstd = 1 / std::sqrt(biased + eps);
      factors[0] = pm[c] = C(training ? m.mean : given_mean[c]);
      factors[pitch] = C(w[c] * invstd);
      factors[2 * pitch] = C(b[c]);
      pr[c] = C(invstd);
      pv[c] = C(training ? m.squares / (m.count - 1) : biased);
    };
    const ActNumbers<C> numbers{C(alpha), C(gain)};
    const NormTiles<C> tiles = tiles_for<C>(s, NormPass::forward, a);
    const scalar_t* source[3] = {px, nullptr, nullptr};
    scalar_t* target[2] = {y.mutable_data_ptr<scalar_t>(), nullptr};
    if (s.rows) {
      std::vector<C> factors(kMostFactors * s.channels, C(0));
      auto moments = training ? row_moments_of<scalar_t, C>(s, px) : std::vector<NormMoments>(s.channels);
      for (int64_t c = 0; c < s.channels; ++c) finish(c, moments[c], factors.data() + c, s.channels);
      each_row_block(s, [&](int64_t, int64_t begin, int64_t end) {
        GK_ISA_CALL(gk::batch_norm, map_rows, s.channels, begin, end, tiles, source, factors.data(), numbers, target);
      });
    } else {
      each_channel(s, [&](int64_t c) {
        NormMoments m;
        if (training) m = GK_ISA_CALL(gk::batch_norm, channel_moments<scalar_t>, s, c, px);
        C factors[kMostFactors] = {};
        finish(c, m, factors, 1);
        GK_ISA_CALL(gk::batch_norm, map_channel, s, c, tiles, source, factors, numbers, target);
      });
    }
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

Tensor maybe_empty(bool wanted, const Tensor& like) {
  return wanted ? at::empty_like(like) : at::empty({0}, like.options());
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

std::tuple<Tensor, Tensor, Tensor> batch_norm_act_backward_cpu(
    const Tensor& gy, const Tensor& x, const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean,
    const Tensor& r, bool training, c10::string_view act, double alpha, double gain, std::array<bool, 3> wanted) {
  const auto format = x.suggest_memory_format();
  const Tensor xc = x.contiguous(format), gc = gy.contiguous(format);
  const NormShape s = shape_of(xc, format);
  const PerChannel w(weight, 1), b(bias, 0), rs(r, 1);
  Tensor gx = maybe_empty(wanted[0], xc);
  Tensor gw = at::zeros({s.channels}, x.options().dtype(at::kDouble)), gb = at::zeros_like(gw);
  double *pw = gw.mutable_data_ptr<double>(), *pb = gb.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_backward", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t* source[3] = {xc.const_data_ptr<scalar_t>(), gc.const_data_ptr<scalar_t>(), nullptr};
    scalar_t* target[2] = {data_or_null<scalar_t>(wanted[0], gx), nullptr};
    run_passes<scalar_t, C>(s, tiles_for<C>(s, NormPass::backward, parse_act(act)), source, target,
                            training || wanted[1] || wanted[2], forward_factors<C>(s.channels, mean, r, w, b),
                            {C(alpha), C(gain)}, [&](int64_t c, const double* sums, C* factors, int64_t pitch) {
                              const NormBackward k(sums, double(s.batch * s.inner), training, w[c], rs[c]);
                              pw[c] = k.grad_weight, pb[c] = k.grad_bias;
                              const double values[] = {k.on_d, k.on_x, k.constant};
                              for (int j = 0; j < 3; ++j) factors[j * pitch] = C(values[j]);
                            });
  });
  return {gx, parameter_grad(wanted[1], gw, weight, mean), parameter_grad(wanted[2], gb, bias, mean)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_act_double_backward_cpu(
    const optional<Tensor>& v, const optional<Tensor>& p, const optional<Tensor>& q, const Tensor& gy, const Tensor& x,
    const optional<Tensor>& weight, const optional<Tensor>& bias, const Tensor& mean, const Tensor& r, bool training,
    c10::string_view act, double alpha, double gain, std::array<bool, 4> wanted) {
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
    const scalar_t* source[3] = {xc.const_data_ptr<scalar_t>(), gc.const_data_ptr<scalar_t>(),
                                 vc.const_data_ptr<scalar_t>()};
    scalar_t* target[2] = {data_or_null<scalar_t>(wanted[0], ggy), data_or_null<scalar_t>(wanted[1], gx)};
    run_passes<scalar_t, C>(
        s, tiles_for<C>(s, NormPass::second, parse_act(act)), source, target, training || wanted[2] || wanted[3],
        forward_factors<C>(s.channels, mean, r, w, b), {C(alpha), C(gain)},
        [&](int64_t c, const double* sums, C* factors, int64_t pitch) {
          const NormSecond k(sums, double(s.batch * s.inner), training, w[c], rs[c], ps[c], qs[c]);
          pw[c] = k.grad_weight, pb[c] = k.grad_bias;
          const double values[] = {k.t_on_v, k.t_on_x, k.t_constant, k.on_ht, k.on_d, k.on_v, k.on_x, k.constant};
          for (int j = 0; j < 8; ++j) factors[j * pitch] = C(values[j]);
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
