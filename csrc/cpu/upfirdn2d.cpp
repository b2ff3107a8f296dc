// upfirdn2d on the CPU: rows are summed into one row that stays in cache, which is then filtered across into the
// output; polyphase in both directions, so that no inserted zero is multiplied. A 2-D filter that is an outer product
// is split into its factors; any other sums over rows and columns at once.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <memory>
#include <optional>

#include "cpu/huge_pages.h"
#include "cpu/upfirdn2d_plan.h"

namespace gk {

template <class T, class A>
struct FirJob {
  const T* x;
  T* y;
  Strides xs, ys;
  FirLine h, v;
  FirView view;
  int64_t tile;  // pixels of a row that are done at a time, whole periods
  bool separable;
  std::vector<A> cx, cy;  // [phase, most]; where not separable cx is [phase y, phase x, most y, count x]

  const A* coef_x(int64_t p) const { return cx.data() + p * h.most; }
  const A* coef_y(int64_t p) const { return cy.data() + p * v.most; }
  const A* coef(int64_t py, int64_t px) const { return cx.data() + (py * h.period + px) * v.most * h.most; }
};

template <class A>
struct FirScratch {
  A *sum, *out, *rows, *room;
  int64_t length;  // of a row
  const A **pointers, **row_pointers;
  int64_t* held;
};

}  // namespace gk

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/upfirdn2d_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

// The filter as float64 in correlation order: [KH, KW], or its factors where it is given or found to be a product.
struct FirFilter {
  std::vector<double> x, y, whole;
  bool separable() const { return whole.empty(); }
};

std::vector<double> numbers(const at::Tensor& f, bool flip) {
  const at::Tensor c = f.contiguous();
  std::vector<double> out(c.numel());
  with_fir_dtype(c.scalar_type(),
                 [&](auto t, auto) { std::copy_n(c.const_data_ptr<decltype(t)>(), c.numel(), out.begin()); });
  if (!flip) std::reverse(out.begin(), out.end());
  return out;
}

// Fits an outer product to `whole` by alternating least squares and takes it where it is within `slack` of each tap.
void factor(FirFilter& f, int64_t kh, int64_t kw, double slack) {
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

FirFilter read_filter(const at::Tensor& x, const at::Tensor& f, const std::optional<at::Tensor>& fy, bool flip) {
  check_fir_filter(x, f, fy);
  if (fy.has_value()) return {numbers(f, flip), numbers(*fy, flip), {}};
  FirFilter filter{{}, {}, numbers(f, flip)};
  const bool twice = x.scalar_type() == at::kDouble;  // the residue may be what rounding the taps explains
  if (f.size(0) > 1 && f.size(1) > 1) factor(filter, f.size(0), f.size(1), std::ldexp(1.0, twice ? -50 : -22));
  if (f.size(0) == 1) filter = {filter.whole, {1.0}, {}};
  if (f.size(1) == 1 && f.size(0) > 1) filter = {{1.0}, filter.whole, {}};
  return filter;
}

template <class A>
std::vector<A> by_phase(const FirLine& line, const std::vector<double>& taps, double gain) {
  std::vector<A> out(line.period * line.most, A(0));
  for (int64_t p = 0; p < line.period; ++p)
    for (int64_t t = 0; t < line.phases[p].count; ++t)
      out[p * line.most + t] = A(gain * taps[line.phases[p].tap + t * line.up]);
  return out;
}

template <class A>
std::vector<A> by_phases(const FirLine& h, const FirLine& v, const std::vector<double>& taps, double gain) {
  std::vector<A> out(h.period * v.period * h.most * v.most, A(0));
  for (int64_t py = 0; py < v.period; ++py)
    for (int64_t px = 0; px < h.period; ++px) {
      A* to = out.data() + (py * h.period + px) * v.most * h.most;
      for (int64_t i = 0; i < v.phases[py].count; ++i)
        for (int64_t j = 0; j < h.phases[px].count; ++j)
          *to++ = A(gain * taps[(v.phases[py].tap + i * v.up) * h.taps + h.phases[px].tap + j * h.up]);
    }
  return out;
}

template <class T, class A>
void run(const FirJob<T, A>& job) {
  const FirLine &h = job.h, &v = job.v;
  const int64_t block = job.view.block, rows = job.view.planes * v.out;
  const int64_t length = h.span(job.tile) * block, out = job.tile * block;
  const int64_t kept = job.separable ? 1 : v.most, room = kept * (h.span(job.tile) + h.step) + job.tile;
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, (h.out + h.in) * block));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> numbers(new A[length * (1 + v.most) + out + room]);
    std::vector<const A*> pointers(kept * h.period * h.most + v.most);
    std::vector<int64_t> held(v.most);
    A* at = numbers.get();
    const FirScratch<A> scratch{at,
                                at + length,
                                at + length + out,
                                at + length * (1 + v.most) + out,
                                length,
                                pointers.data(),
                                pointers.data() + kept * h.period * h.most,
                                held.data()};
    while (begin < end) {
      const int64_t plane = begin / v.out, row = begin % v.out, last = std::min(v.out, row + end - begin);
      GK_ISA_CALL(gk, fir_rows, job, plane, row, last, scratch);
      begin += last - row;
    }
  });
}

at::Tensor upfirdn2d(const at::Tensor& x, const at::Tensor& f, const std::optional<at::Tensor>& fy, at::IntArrayRef up,
                     at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain) {
  const FirFilter filter = read_filter(x, f, fy, flip);
  const auto axes = fir_axes(x, {fy.value_or(f).size(0), f.size(-1)}, up, down, padding);
  const FirLine h(axes[0]), v(axes[1]);
  const auto format = x.suggest_memory_format();
  at::Tensor y = at::empty({x.size(0), x.size(1), v.out, h.out}, x.options().memory_format(format));
  if (y.numel() == 0) return y;
  prefer_huge_pages(y);
  const FirView view(x, format == at::MemoryFormat::ChannelsLast, std::max(h.in, h.out), h.period == h.step);
  constexpr int64_t kTile = 4096;  // numbers of a row held at a time
  const int64_t periods = std::max<int64_t>(1, kTile / (view.block * std::max(h.period, h.step)));
  const int64_t tile = std::min(periods, (h.out + h.period - 1) / h.period) * h.period;
  with_fir_dtype(x.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    using A = decltype(a);
    FirJob<T, A> job{x.const_data_ptr<T>(),
                     y.mutable_data_ptr<T>(),
                     Strides(x),
                     Strides(y),
                     h,
                     v,
                     view,
                     tile,
                     filter.separable(),
                     {},
                     {}};
    if (filter.separable()) {
      job.cx = by_phase<A>(h, filter.x, 1);
      job.cy = by_phase<A>(v, filter.y, gain);
    } else {
      job.cx = by_phases<A>(h, v, filter.whole, gain);
    }
    run(job);
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("upfirdn2d", &upfirdn2d); }

}  // namespace gk
