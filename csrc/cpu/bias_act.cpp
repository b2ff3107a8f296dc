// bias_act on the CPU: one pass forward, one pass for a derivative of any order with its reduction to the bias.
#include "bias_act.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "bias_act_op.h"
#include "cpu/channel_runs.h"

namespace gk {

// (g + g_bias) * h * (derivative of f at ref + bias, or slope of the output ref), to out and, unit by unit, to sums;
// any pointer but g may be null.
template <class T, class acc_t>
struct BiasActDerivative {
  const T *g, *h, *ref;
  const acc_t *g_bias, *bias;
  T* out;
  double* sums;
  bool ref_is_output;
};

}  // namespace gk

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/bias_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

template <class F>
void each_unit(const ChannelRuns& runs, F f) {
  const int64_t a_unit = std::max<int64_t>(1, runs.numel / std::max<int64_t>(runs.units, 1));
  at::parallel_for(0, runs.units, std::max<int64_t>(1, kGrain / a_unit), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) f(unit);
  });
}

template <class T, class acc_t>
std::vector<acc_t> write_out(const ChannelRuns& runs, const std::optional<at::Tensor>& values) {
  if (!values.has_value()) return {};
  const at::Tensor v = values->contiguous();
  return runs.write_out<T, acc_t>(v.const_data_ptr<T>());
}

at::Tensor bias_act_cpu(const at::Tensor& x, const std::optional<at::Tensor>& bias, int64_t dim, c10::string_view act,
                        double alpha, double gain, double clamp) {
  check_bias_act(x, bias, "bias", dim);
  const auto format = format_of(x, dim);
  const at::Tensor xc = x.contiguous(format);
  at::Tensor y = at::empty_like(xc);
  const ChannelRuns runs(xc, dim, format);
  const ActParams params{alpha, gain, clamp < 0 ? INFINITY : clamp};
  const Act a = parse_act(act);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "bias_act", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto b = write_out<scalar_t, acc_t>(runs, bias);
    const acc_t* pb = b.empty() ? nullptr : b.data();
    const scalar_t* px = xc.const_data_ptr<scalar_t>();
    scalar_t* py = y.mutable_data_ptr<scalar_t>();
    each_unit(runs, [&](int64_t unit) { GK_ISA_CALL(gk, value_unit, runs, unit, px, pb, py, a, params); });
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> bias_act_derivative_cpu(
    const at::Tensor& g, const std::optional<at::Tensor>& g_bias, const std::optional<at::Tensor>& h,
    const std::optional<at::Tensor>& ref, const std::optional<at::Tensor>& bias, bool ref_is_output, int64_t order,
    int64_t dim, c10::string_view act, double alpha, double gain, double clamp, bool want_full, bool want_bias) {
  check_bias_act(g, bias, "bias", dim);
  check_bias_act(g, g_bias, "g_bias", dim);
  check_same(h, "h", g);
  check_same(ref, "ref", g);
  TORCH_CHECK(order >= 1 && order <= 3, "bias_act: derivative of order ", order, ", expected 1 to 3");
  const Act a = parse_act(act);
  TORCH_CHECK(ref.has_value() || (a == Act::linear && clamp < 0 && order == 1), "bias_act: ref is needed for act ",
              act);
  const auto format = format_of(ref.has_value() ? *ref : g, dim);
  const auto whole = [&](const std::optional<at::Tensor>& t) {
    return t.has_value() ? t->contiguous(format) : at::Tensor();
  };
  const at::Tensor gc = g.contiguous(format), hc = whole(h), rc = whole(ref);
  at::Tensor out = want_full ? at::empty_like(gc) : at::empty({0}, g.options());
  at::Tensor reduced = at::empty({want_bias ? g.size(dim) : 0}, g.options());
  const ChannelRuns runs(gc, dim, format);
  const ActParams params{alpha, gain, clamp < 0 ? INFINITY : clamp};
  std::vector<double> sums(want_bias ? runs.units * runs.sums() : 0, 0.0);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "bias_act_derivative", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto gb = write_out<scalar_t, acc_t>(runs, g_bias);
    const auto b = write_out<scalar_t, acc_t>(runs, bias);
    const auto data = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr<scalar_t>() : nullptr; };
    const BiasActDerivative<scalar_t, acc_t> d{data(gc),
                                               data(hc),
                                               data(rc),
                                               gb.empty() ? nullptr : gb.data(),
                                               b.empty() ? nullptr : b.data(),
                                               want_full ? out.mutable_data_ptr<scalar_t>() : nullptr,
                                               want_bias ? sums.data() : nullptr,
                                               ref_is_output};
    each_unit(runs, [&](int64_t unit) { GK_ISA_CALL(gk, derivative_unit, runs, unit, d, a, order, params); });
    if (want_bias) {
      const auto totals = runs.total(sums);
      std::copy(totals.begin(), totals.end(), reduced.mutable_data_ptr<scalar_t>());
    }
  });
  return {out, reduced};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("bias_act", &bias_act_cpu);
  m.impl("bias_act_derivative", &bias_act_derivative_cpu);
}

}  // namespace gk
