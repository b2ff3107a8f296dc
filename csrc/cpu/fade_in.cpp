// fade_in on the CPU: the value, and all gradients, are one pass each.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "fade_in_op.h"

namespace gk::fade {

// The loops' view of a Shape; a unit is a few low rows. The order of sums depends on sizes alone.
struct Walk {
  static constexpr int64_t kUnit = 16384;  // elements of images
  int64_t rows, columns, inner, r, unit_rows;
  explicit Walk(const Shape& s) : rows(s.rows()), columns(s.columns()), inner(s.inner()), r(s.r) {
    unit_rows = std::max<int64_t>(1, kUnit / std::max<int64_t>(1, columns * inner * r * r));
  }
  int64_t units() const { return (rows + unit_rows - 1) / unit_rows; }
  int64_t line() const { return columns * r * inner; }  // of an image
};

// out = a x + b up(l) + a2 (x2 - up(l2)); null for what there is not.
template <class T, class C>
struct Mix {
  const T *x, *l, *x2, *l2;
  T* out;
  C a, b, a2;
};

// gx = a g, gl = b g's sums, a unit's sum of g (x - up(l)); null for what there is not.
template <class T, class C>
struct Adjoint {
  const T *g, *x, *l;
  T *gx, *gl;
  double* sums;
  C a, b;
};

}  // namespace gk::fade

#define GK_ISA_SPACE gk::fade
#define GK_ISA_FILE "cpu/fade_in_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::fade {
namespace {

template <class F>
void each_unit(const Walk& w, F f) {
  const int64_t grain = std::max<int64_t>(1, Walk::kUnit / (w.unit_rows * w.line() * w.r));
  at::parallel_for(0, w.units(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) f(unit);
  });
}

template <class T>
const T* data(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}
template <class T>
T* result(const Tensor& t, bool wanted) {
  return wanted ? t.mutable_data_ptr<T>() : nullptr;
}
double read(const Tensor& t, double otherwise) { return t.defined() ? t.item<double>() : otherwise; }

Tensor fade_in_cpu(const Opt& x_, const Opt& l_, const Opt& a_, const Opt& x2_, const Opt& l2_, const Opt& a2_,
                   bool difference, double factor, int64_t r) {
  const Shape s = Shape::of(x_, l_, x2_, l2_, r);
  const Tensor x = s.image(x_, "x", false), l = s.image(l_, "l", true), x2 = s.image(x2_, "x2", false),
               l2 = s.image(l2_, "l2", true), y = s.fresh(false);
  const double a = read(s.number(a_, "a"), factor), a2 = read(s.number(a2_, "a2"), 1);
  if (s.empty()) return y;
  const Walk w(s);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, s.type(), "fade_in", [&] {
    using C = at::opmath_type<scalar_t>;
    const C own = a;
    const Mix<scalar_t, C> mix = {data<scalar_t>(x),
                                  data<scalar_t>(l),
                                  data<scalar_t>(x2),
                                  data<scalar_t>(l2),
                                  y.mutable_data_ptr<scalar_t>(),
                                  own,
                                  difference ? -own : 1 - own,
                                  static_cast<C>(a2)};
    each_unit(w, [&](int64_t unit) { GK_ISA_CALL(gk::fade, value_unit, w, unit, mix); });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> fade_in_adjoint_cpu(const Tensor& g_, const Opt& x_, const Opt& l_, const Opt& a_,
                                                       bool difference, double factor, int64_t r,
                                                       std::array<bool, 3> wanted) {
  const Shape s(g_, false, r);
  const Tensor g = s.image(g_, "g", false), x = s.image(x_, "x", false), l = s.image(l_, "l", true);
  const double a = read(s.number(a_, "a"), factor);
  const Tensor gx = s.fresh(false, wanted[0]), gl = s.fresh(true, wanted[1]),
               ga = wanted[2] ? at::empty({}, s.options) : at::empty({0}, s.options);
  const Walk w(s);
  std::vector<double> sums(wanted[2] ? w.units() : 0, 0.0);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, s.type(), "fade_in_adjoint", [&] {
    using C = at::opmath_type<scalar_t>;
    const C own = a;
    const Adjoint<scalar_t, C> job = {data<scalar_t>(g),
                                      data<scalar_t>(x),
                                      data<scalar_t>(l),
                                      result<scalar_t>(gx, wanted[0]),
                                      result<scalar_t>(gl, wanted[1]),
                                      wanted[2] ? sums.data() : nullptr,
                                      own,
                                      difference ? -own : 1 - own};
    if (!s.empty()) each_unit(w, [&](int64_t unit) { GK_ISA_CALL(gk::fade, adjoint_unit, w, unit, job); });
    if (!wanted[2]) return;
    double total = 0;
    for (const double sum : sums) total += sum;
    *ga.mutable_data_ptr<scalar_t>() = total;
  });
  return {gx, gl, ga};
}

}  // namespace
}  // namespace gk::fade

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("fade_in", &gk::fade::fade_in_cpu);
  m.impl("fade_in_adjoint", &gk::fade::fade_in_adjoint_cpu);
}
