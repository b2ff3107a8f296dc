// The filter of a CPU FIR kernel: read from tensors, split into factors where it is a product, laid out by phase.
#pragma once
#include <cmath>
#include <optional>

#include "cpu/upfirdn2d_plan.h"

namespace gk {

// The filter as float64 in correlation order: [KH, KW], or its factors where it is given or found to be a product.
struct FirFilter {
  std::vector<double> x, y, whole;
  bool separable() const { return whole.empty(); }
};

inline std::vector<double> fir_numbers(const at::Tensor& f, bool flip) {
  const at::Tensor c = f.contiguous();
  std::vector<double> out(c.numel());
  with_fir_dtype(c.scalar_type(),
                 [&](auto t, auto) { std::copy_n(c.const_data_ptr<decltype(t)>(), c.numel(), out.begin()); });
  if (!flip) std::reverse(out.begin(), out.end());
  return out;
}

// Fits an outer product to `whole` by alternating least squares and takes it where it is within `slack` of each tap.
inline void factor(FirFilter& f, int64_t kh, int64_t kw, double slack) {
  const auto& w = f.whole;
  const int64_t top =
      std::max_element(w.begin(), w.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }) - w.begin();
  std::vector<double> x(w.begin() + top / kw * kw, w.begin() + (top / kw + 1) * kw), y(kh);
  const auto square = [](const std::vector<double>& v) {
    return std::inner_product(v.begin(), v.end(), v.begin(), 0.0);
  };
  for (int round = 0; round < 2; ++round) {
    const double xx = square(x);
    if (!(xx > 0) || !std::isfinite(xx)) return;
    for (int64_t i = 0; i < kh; ++i) y[i] = std::inner_product(x.begin(), x.end(), w.begin() + i * kw, 0.0) / xx;
    const double yy = square(y);
    if (!(yy > 0) || !std::isfinite(yy)) return;
    std::fill(x.begin(), x.end(), 0.0);
    for (int64_t i = 0; i < kh; ++i)
      for (int64_t j = 0; j < kw; ++j) x[j] += y[i] * w[i * kw + j] / yy;
  }
  for (int64_t i = 0; i < kh; ++i)
    for (int64_t j = 0; j < kw; ++j)
      if (!(std::abs(y[i] * x[j] - w[i * kw + j]) <= slack * std::abs(w[i * kw + j]))) return;
  f = {x, y, {}};
}

inline FirFilter read_filter(const at::Tensor& x, const at::Tensor& f, const std::optional<at::Tensor>& fy, bool flip,
                             const char* op = "upfirdn2d") {
  check_fir_filter(x, f, fy, op);
  if (fy.has_value()) return {fir_numbers(f, flip), fir_numbers(*fy, flip), {}};
  FirFilter filter{{}, {}, fir_numbers(f, flip)};
  const bool twice = x.scalar_type() == at::kDouble;  // the residue may be what rounding the taps explains
  if (f.size(0) > 1 && f.size(1) > 1) factor(filter, f.size(0), f.size(1), std::ldexp(1.0, twice ? -50 : -22));
  if (f.size(0) == 1) filter = {filter.whole, {1.0}, {}};
  if (f.size(1) == 1 && f.size(0) > 1) filter = {{1.0}, filter.whole, {}};
  return filter;
}

// One resampling: its axes, and the taps as the loops read them. Where separable, [phase, most] for each axis; else cx
// is [phase y, phase x, most y, count x].
template <class A>
struct FirStage {
  FirLine h, v;
  bool separable;
  std::vector<A> cx, cy;

  FirStage(const FirLine& h, const FirLine& v, const FirFilter& f, double gain) : h(h), v(v), separable(f.separable()) {
    if (separable) {
      cx = by_phase(h, f.x, 1);
      cy = by_phase(v, f.y, gain);
      return;
    }
    cx.assign(h.period * v.period * h.most * v.most, A(0));
    for (int64_t py = 0; py < v.period; ++py)
      for (int64_t px = 0; px < h.period; ++px) {
        A* to = cx.data() + (py * h.period + px) * v.most * h.most;
        for (int64_t i = 0; i < v.phases[py].count; ++i)
          for (int64_t j = 0; j < h.phases[px].count; ++j)
            *to++ = A(gain * f.whole[(v.phases[py].tap + i * v.up) * h.taps + h.phases[px].tap + j * h.up]);
      }
  }
  static std::vector<A> by_phase(const FirLine& line, const std::vector<double>& taps, double gain) {
    std::vector<A> out(line.period * line.most, A(0));
    for (int64_t p = 0; p < line.period; ++p)
      for (int64_t t = 0; t < line.phases[p].count; ++t)
        out[p * line.most + t] = A(gain * taps[line.phases[p].tap + t * line.up]);
    return out;
  }
  const A* coef_x(int64_t p) const { return cx.data() + p * h.most; }
  const A* coef_y(int64_t p) const { return cy.data() + p * v.most; }
  const A* coef(int64_t py, int64_t px) const { return cx.data() + (py * h.period + px) * v.most * h.most; }
};

}  // namespace gk
