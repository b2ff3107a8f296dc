// spectral_norm on the CPU: all weights in one call, two readings of them forward (power iteration, division).
#include "spectral_norm.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/spectral_norm_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;
using at::TensorList;
using Tensors = std::vector<Tensor>;

#define GK_DISPATCH(x, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, (x).scalar_type(), "spectral_norm", __VA_ARGS__)

// Runs of rows of all weights, the unit of work: fixed by a weight's shape, so that sums do not depend on the
// number of threads.
struct Runs {
  static constexpr int64_t kRuns = 16, kElements = 16384, kRows = 64;  // kRows: sums over more are in double
  struct Run {
    int64_t weight, first, rows;
  };
  std::vector<Run> runs;
  std::vector<int64_t> first;  // of each weight, and one past the last

  explicit Runs(const Matrices& m) {
    for (int64_t i = 0; i < m.size(); ++i) {
      const int64_t each =
          std::min(kRows, std::max((m.rows[i] + kRuns - 1) / kRuns, (kElements + m.cols[i] - 1) / m.cols[i]));
      first.push_back(static_cast<int64_t>(runs.size()));
      for (int64_t r = 0; r < m.rows[i]; r += each) runs.push_back({i, r, std::min(each, m.rows[i] - r)});
    }
    first.push_back(static_cast<int64_t>(runs.size()));
  }

  template <class F>
  void each(F f) const {
    at::parallel_for(0, static_cast<int64_t>(runs.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i, runs[i]);
    });
  }
};

// Divides x by max(|x|, eps), which it returns, and sets `along` to <x before, x after>.
template <class C>
double normalize(C* x, int64_t n, double eps, double& along) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double(x[i]) * x[i];
  const double root = std::sqrt(squares), norm = root < eps ? eps : root;
  for (int64_t i = 0; i < n; ++i) x[i] = C(x[i] / norm);
  along = squares / norm;
  return norm;
}

template <class T>
struct Power {
  using C = at::opmath_type<T>;
  const Matrices& m;
  const Runs& runs;
  const Tensors& w;
  C *u, *v;
  double eps;
  std::vector<double>& sigma;
  std::vector<C> parts;

  // One step of every weight: u = W v, then v = W^T u, or one of the two; sigma is that of the last.
  void step(bool to_u, bool to_v) {
    if (to_v) {
      int64_t size = 0;
      for (const auto& run : runs.runs) size += m.cols[run.weight];
      parts.assign(size, C(0));
    }
    std::vector<int64_t> at;
    for (int64_t i = 0, next = 0; i < static_cast<int64_t>(runs.runs.size()); next += m.cols[runs.runs[i++].weight])
      at.push_back(next);
    runs.each([&](int64_t i, const Runs::Run& run) {
      const int64_t k = run.weight;
      C* own = u + m.u_at[k] + run.first;
      GK_ISA_CALL(gk, power_rows, w[k].const_data_ptr<T>() + run.first * m.cols[k], run.rows, m.cols[k],
                  to_u ? v + m.v_at[k] : nullptr, static_cast<const C*>(to_u ? nullptr : own), own,
                  to_v ? parts.data() + at[i] : nullptr);
    });
    at::parallel_for(0, m.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const double scale = to_u ? normalize(u + m.u_at[k], m.rows[k], eps, sigma[k]) : 1;
        if (!to_v) continue;
        C* own = v + m.v_at[k];
        for (int64_t j = 0; j < m.cols[k]; ++j) {
          double sum = 0;
          for (int64_t i = runs.first[k]; i < runs.first[k + 1]; ++i) sum += parts[at[i] + j];
          own[j] = C(sum / scale);
        }
        normalize(own, m.cols[k], eps, sigma[k]);
      }
    });
  }

  // sigma = u^T W v of the vectors as they are.
  void measure() {
    std::vector<double> each(runs.runs.size());
    runs.each([&](int64_t i, const Runs::Run& run) {
      const int64_t k = run.weight;
      std::vector<C> s(run.rows);
      GK_ISA_CALL(gk, power_rows, w[k].const_data_ptr<T>() + run.first * m.cols[k], run.rows, m.cols[k],
                  static_cast<const C*>(v + m.v_at[k]), static_cast<const C*>(nullptr), s.data(),
                  static_cast<C*>(nullptr));
      for (int64_t r = 0; r < run.rows; ++r) each[i] += double(u[m.u_at[k] + run.first + r]) * s[r];
    });
    for (size_t i = 0; i < each.size(); ++i) sigma[runs.runs[i].weight] += each[i];
  }
};

Tensor tensor_of(const std::vector<double>& values, const Tensor& like) {
  Tensor out = at::empty({static_cast<int64_t>(values.size())}, like.options().dtype(at::kDouble));
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
  return out.to(at::toOpMathType(like.scalar_type()));
}

std::vector<double> numbers(const Tensor& t) {
  const Tensor wide = t.to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

// p[i] x[i] + q[i] y[i], or p[i] x[i] + factor[i] u v^T; y empty and u undefined for neither.
Tensors combined(const Matrices& m, const Runs& runs, const Tensors& x, const std::vector<double>& p, const Tensors& y,
                 const std::vector<double>& q, const Tensor& u, const Tensor& v, const std::vector<double>& factor) {
  Tensors out;
  for (const Tensor& t : x) out.push_back(at::empty_like(t));
  GK_DISPATCH(x[0], [&] {
    using C = at::opmath_type<scalar_t>;
    const C *pu = u.defined() ? u.const_data_ptr<C>() : nullptr, *pv = pu ? v.const_data_ptr<C>() : nullptr;
    runs.each([&](int64_t, const Runs::Run& run) {
      const int64_t k = run.weight, at = run.first * m.cols[k];
      GK_ISA_CALL(gk, combine_rows, x[k].const_data_ptr<scalar_t>() + at, C(p[k]),
                  y.empty() ? nullptr : y[k].const_data_ptr<scalar_t>() + at, y.empty() ? C(0) : C(q[k]),
                  pu ? pu + m.u_at[k] + run.first : nullptr, pu ? C(factor[k]) : C(0), pu ? pv + m.v_at[k] : nullptr,
                  out[k].mutable_data_ptr<scalar_t>() + at, run.rows, m.cols[k]);
    });
  });
  return out;
}

// <a[i], b[i]>
std::vector<double> dots(const Matrices& m, const Runs& runs, const Tensors& a, const Tensors& b) {
  std::vector<double> each(runs.runs.size()), out(m.size());
  GK_DISPATCH(a[0], [&] {
    using C = at::opmath_type<scalar_t>;
    runs.each([&](int64_t i, const Runs::Run& run) {
      const int64_t at = run.first * m.cols[run.weight];
      each[i] = GK_ISA_CALL(gk, dot_row<C>, a[run.weight].const_data_ptr<scalar_t>() + at,
                            b[run.weight].const_data_ptr<scalar_t>() + at, run.rows * m.cols[run.weight]);
    });
  });
  for (size_t i = 0; i < each.size(); ++i) out[runs.runs[i].weight] += each[i];
  return out;
}

std::tuple<Tensors, Tensor, Tensor, Tensor> spectral_norm_cpu(TensorList weights, const Tensor& u,
                                                              const std::optional<Tensor>& v, int64_t iterations,
                                                              double eps) {
  const Matrices m(weights);
  const Tensors w = contiguous(weights);
  std::vector<double> sigma(m.size(), 0.0);
  if (w.empty()) return {Tensors(), u.clone(), v.has_value() ? v->clone() : at::empty_like(u), at::empty_like(u)};
  m.check_vectors(u, v, w[0]);
  const Runs runs(m);
  Tensor new_u = u.clone(at::MemoryFormat::Contiguous);
  Tensor new_v = v.has_value() ? v->clone(at::MemoryFormat::Contiguous) : at::empty({m.v_size}, u.options());
  GK_DISPATCH(w[0], [&] {
    using C = at::opmath_type<scalar_t>;
    Power<scalar_t> power{m, runs, w, new_u.mutable_data_ptr<C>(), new_v.mutable_data_ptr<C>(), eps, sigma, {}};
    if (!v.has_value()) power.step(false, true);
    for (int64_t i = 0; i < iterations; ++i) power.step(true, v.has_value() || i + 1 < iterations);
    if (v.has_value() && iterations == 0) power.measure();
  });
  std::vector<double> inverse(sigma);
  for (double& s : inverse) s = 1 / s;
  return {combined(m, runs, w, inverse, {}, {}, Tensor(), Tensor(), {}), new_u, new_v, tensor_of(sigma, w[0])};
}

Tensors spectral_norm_backward_cpu(TensorList g, TensorList weights, const Tensor& u, const Tensor& v,
                                   const Tensor& sigma) {
  const Matrices m(weights);
  m.check_alike("g", g, weights);
  m.check_vectors(u, v, weights[0]);
  m.check("sigma", sigma, m.size(), weights[0]);
  const Runs runs(m);
  const Tensors gc = contiguous(g);
  std::vector<double> factor = dots(m, runs, gc, contiguous(weights)), p = numbers(sigma);
  for (size_t i = 0; i < p.size(); ++i) {
    factor[i] *= -1 / (p[i] * p[i]);
    p[i] = 1 / p[i];
  }
  return combined(m, runs, gc, p, {}, {}, u.contiguous(), v.contiguous(), factor);
}

// With a = u^T h v, b = <h, g>, c = <g, W>: h / sigma - a / sigma^2 W, and
// -a / sigma^2 g + (2 a c / sigma^3 - b / sigma^2) u v^T.
std::tuple<Tensors, Tensors> spectral_norm_double_backward_cpu(TensorList h, TensorList g, TensorList weights,
                                                               const Tensor& u, const Tensor& v, const Tensor& sigma,
                                                               std::array<bool, 2> wanted) {
  const Matrices m(weights);
  m.check_alike("h", h, weights);
  m.check_alike("g", g, weights);
  m.check_vectors(u, v, weights[0]);
  m.check("sigma", sigma, m.size(), weights[0]);
  const Runs runs(m);
  const Tensors hc = contiguous(h), gc = contiguous(g), w = contiguous(weights);
  Tensor uc = u.clone(at::MemoryFormat::Contiguous), vc = v.clone(at::MemoryFormat::Contiguous);
  std::vector<double> a(m.size(), 0.0);
  GK_DISPATCH(w[0], [&] {
    using C = at::opmath_type<scalar_t>;
    Power<scalar_t>{m, runs, hc, uc.mutable_data_ptr<C>(), vc.mutable_data_ptr<C>(), 0, a, {}}.measure();
  });
  const std::vector<double> s = numbers(sigma);
  std::vector<double> inverse(s.size()), slope(s.size()), factor(s.size());
  for (size_t i = 0; i < s.size(); ++i) {
    inverse[i] = 1 / s[i];
    slope[i] = -a[i] / (s[i] * s[i]);
  }
  std::tuple<Tensors, Tensors> out;
  if (wanted[0]) std::get<0>(out) = combined(m, runs, hc, inverse, w, slope, Tensor(), Tensor(), {});
  if (!wanted[1]) return out;
  const std::vector<double> b = dots(m, runs, hc, gc), c = dots(m, runs, gc, w);
  for (size_t i = 0; i < s.size(); ++i) factor[i] = -b[i] / (s[i] * s[i]) - 2 * slope[i] * c[i] / s[i];
  std::get<1>(out) = combined(m, runs, gc, slope, {}, {}, uc, vc, factor);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("spectral_norm", &spectral_norm_cpu);
  m.impl("spectral_norm_backward", &spectral_norm_backward_cpu);
  m.impl("spectral_norm_double_backward", &spectral_norm_double_backward_cpu);
}

}  // namespace gk
