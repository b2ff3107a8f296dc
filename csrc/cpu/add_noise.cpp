// add_noise on the CPU: one pass for the value, one for both sums.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "add_noise_op.h"
#include "cpu/modulate_act_run.h"

namespace gk::noise {

using modulate::Layout;

// A number for each row and one for each column of a sample; null where there is no such term.
template <class C>
struct Term {
  const C *row = nullptr, *column = nullptr;
  int64_t row_pitch = 0, column_pitch = 0;  // from sample to sample; 0 where all share
};

}  // namespace gk::noise

#define GK_ISA_SPACE gk::noise
#define GK_ISA_FILE "cpu/add_noise_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::noise {
namespace {

Layout layout_of(const Shape& s) { return {s.n, s.outer(), s.inner(), s.last()}; }

template <class F>
void each_unit(const Layout& l, F f) {
  const int64_t grain = std::max<int64_t>(1, modulate::kUnit / (l.inner_block * l.outer_block));
  at::parallel_for(0, l.units(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) f(unit);
  });
}

// A term's numbers in the dtype of sums.
struct Numbers {
  Tensor strength, noise;
  Numbers(const Shape& s, const Opt& strength_, const Opt& noise_, double factor) {
    s.check_strength(strength_);
    s.check_noise(noise_);
    if (!noise_.has_value()) return;
    const auto type = at::toOpMathType(s.type());
    noise = noise_->to(type).contiguous();
    strength =
        strength_.has_value() ? strength_->to(type).expand({s.c}).contiguous() : at::full({s.c}, factor, s.sums());
  }
  template <class C>
  Term<C> term(const Shape& s) const {
    if (!noise.defined()) return {};
    const C *of_channel = strength.const_data_ptr<C>(), *of_pixel = noise.const_data_ptr<C>();
    const int64_t pitch = noise.size(0) == 1 ? 0 : s.pixels();
    return s.last() ? Term<C>{of_pixel, of_channel, pitch, 0} : Term<C>{of_channel, of_pixel, 0, pitch};
  }
};

Tensor add_noise_cpu(const Tensor& x, bool add, const Opt& s, const Opt& m, const Opt& s2, const Opt& m2,
                     double factor) {
  const Shape shape(x);
  const Numbers one(shape, s, m, factor), two(shape, s2, m2, 1);
  const Tensor y = shape.fresh();
  if (shape.empty()) return y;
  const Tensor xc = add ? x.contiguous(shape.format) : Tensor();
  const Layout l = layout_of(shape);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, shape.type(), "add_noise", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t* from = add ? xc.const_data_ptr<scalar_t>() : nullptr;
    scalar_t* to = y.mutable_data_ptr<scalar_t>();
    const Term<C> a = one.term<C>(shape), b = two.term<C>(shape);
    each_unit(l, [&](int64_t unit) { GK_ISA_CALL(gk::noise, value_unit, l, unit, from, a, b, to); });
  });
  return y;
}

std::tuple<Tensor, Tensor> add_noise_sums_cpu(const Tensor& g, const Opt& s, const Tensor& m, double factor,
                                              std::array<bool, 2> wanted) {
  const Shape shape(g);
  const Numbers numbers(shape, s, m, factor);
  const Layout l = layout_of(shape);
  const bool rows = wanted[shape.last() ? 0 : 1], columns = wanted[shape.last() ? 1 : 0];
  const auto room = [&](bool needed, int64_t blocks, int64_t size) {
    return needed ? at::zeros({shape.n, blocks, size}, g.options().dtype(at::kDouble)) : Tensor();
  };
  const Tensor of_rows = room(rows, l.inner_blocks, l.outer), of_columns = room(columns, l.outer_blocks, l.inner);
  if (!shape.empty() && (rows || columns)) {
    const Tensor gc = g.contiguous(shape.format);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, shape.type(), "add_noise_sums", [&] {
      using C = at::opmath_type<scalar_t>;
      const scalar_t* from = gc.const_data_ptr<scalar_t>();
      const Term<C> term = numbers.term<C>(shape);
      double* to_rows = rows ? of_rows.mutable_data_ptr<double>() : nullptr;
      double* to_columns = columns ? of_columns.mutable_data_ptr<double>() : nullptr;
      each_unit(l, [&](int64_t unit) { GK_ISA_CALL(gk::noise, sums_unit, l, unit, from, term, to_rows, to_columns); });
    });
  }
  return shape.last() ? shape.totals(of_rows, of_columns, s, m) : shape.totals(of_columns, of_rows, s, m);
}

}  // namespace
}  // namespace gk::noise

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("add_noise", &gk::noise::add_noise_cpu);
  m.impl("add_noise_sums", &gk::noise::add_noise_sums_cpu);
}
