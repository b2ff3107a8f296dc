// Sums over each sample, and scalings of each, on the CPU.
#include "per_sample.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/per_sample_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

// Samples in pieces of a fixed length, the unit of work: sums do not depend on the number of threads.
struct Pieces {
  static constexpr int64_t kPiece = 32768;
  int64_t samples, length, each;

  explicit Pieces(const Tensor& x)
      : samples(x.size(0)),
        length(samples ? x.numel() / samples : 0),
        each(std::max<int64_t>(1, (length + kPiece - 1) / kPiece)) {}

  // f(unit, sample, offset of its first element in the tensor, elements)
  template <class F>
  void run(F f) const {
    const int64_t a_unit = std::max<int64_t>(1, std::min(length, kPiece));
    at::parallel_for(0, samples * each, std::max<int64_t>(1, kPiece / a_unit), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t first = unit % each * kPiece;
        f(unit, unit / each, unit / each * length + first, std::min(kPiece, length - first));
      }
    });
  }
};

#define GK_DISPATCH(x, name, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, (x).scalar_type(), name, __VA_ARGS__)

std::vector<double> dots(const Pieces& pieces, const Tensor& a, const Tensor& b) {
  std::vector<double> parts(pieces.samples * pieces.each, 0.0), sums(pieces.samples, 0.0);
  GK_DISPATCH(a, "dot_per_sample", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t *pa = a.const_data_ptr<scalar_t>(), *pb = b.const_data_ptr<scalar_t>();
    pieces.run([&](int64_t unit, int64_t, int64_t at, int64_t n) {
      parts[unit] = GK_ISA_CALL(gk, dot_piece<C>, pa + at, pb + at, n);
    });
  });
  for (int64_t i = 0; i < pieces.samples; ++i)
    for (int64_t j = 0; j < pieces.each; ++j) sums[i] += parts[i * pieces.each + j];
  return sums;
}

// p[n] a, or p[n] a + q[n] b.
Tensor combine(const Pieces& pieces, const Tensor& a, const std::vector<double>& p, const Tensor& b,
               const std::vector<double>& q) {
  Tensor out = at::empty_like(a);
  GK_DISPATCH(a, "scale_per_sample", [&] {
    using C = at::opmath_type<scalar_t>;
    const scalar_t *pa = a.const_data_ptr<scalar_t>(), *pb = b.defined() ? b.const_data_ptr<scalar_t>() : nullptr;
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    pieces.run([&](int64_t, int64_t i, int64_t at, int64_t n) {
      GK_ISA_CALL(gk, combine_piece, pa + at, C(p[i]), pb ? pb + at : nullptr, pb ? C(q[i]) : C(0), to + at, n);
    });
  });
  return out;
}

std::vector<double> numbers(const Tensor& f) {
  const Tensor wide = f.to(at::kDouble).contiguous();
  const double* p = wide.const_data_ptr<double>();
  return {p, p + wide.numel()};
}

Tensor tensor_of(const std::vector<double>& values, const Tensor& x) {
  Tensor out = at::empty({x.size(0)}, x.options().dtype(at::kDouble));
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<double>());
  return out.to(sums_dtype(x));
}

double inverse(double norm) { return norm == 0 ? 0 : 1 / norm; }

Tensor dot_cpu(const Tensor& a, const Tensor& b, double factor) {
  check_samples("dot_per_sample", a);
  check_alike("dot_per_sample", "b", b, a);
  const auto format = sample_format(a);
  const Tensor ac = a.contiguous(format);
  std::vector<double> sums = dots(Pieces(ac), ac, b.is_same(a) ? ac : b.contiguous(format));
  for (double& s : sums) s *= factor;
  return tensor_of(sums, a);
}

Tensor sum_squares_cpu(const Tensor& x) { return dot_cpu(x, x, 1); }

Tensor norm_cpu(const Tensor& x) {
  check_samples("norm_per_sample", x);
  const Tensor xc = x.contiguous(sample_format(x));
  std::vector<double> sums = dots(Pieces(xc), xc, xc);
  for (double& s : sums) s = std::sqrt(s);
  return tensor_of(sums, x);
}

Tensor scale_cpu(const Tensor& x, const Tensor& f, double factor) {
  check_samples("scale_per_sample", x);
  check_factors("scale_per_sample", "f", f, x);
  const Tensor xc = x.contiguous(sample_format(x));
  std::vector<double> p = numbers(f);
  for (double& v : p) v *= factor;
  return combine(Pieces(xc), xc, p, Tensor(), {});
}

Tensor norm_backward_cpu(const Tensor& g, const Tensor& x, const Tensor& norm) {
  check_samples("norm_per_sample_backward", x);
  check_factors("norm_per_sample_backward", "g", g, x);
  check_factors("norm_per_sample_backward", "norm", norm, x);
  const Tensor xc = x.contiguous(sample_format(x));
  std::vector<double> p = numbers(g);
  const std::vector<double> r = numbers(norm);
  for (size_t i = 0; i < p.size(); ++i) p[i] *= inverse(r[i]);
  return combine(Pieces(xc), xc, p, Tensor(), {});
}

// <v, x> / norm, and g / norm (v - x <v, x> / norm^2).
std::tuple<Tensor, Tensor> norm_double_backward_cpu(const Tensor& v, const Tensor& g, const Tensor& x,
                                                    const Tensor& norm, std::array<bool, 2> wanted) {
  check_samples("norm_per_sample_double_backward", x);
  check_alike("norm_per_sample_double_backward", "v", v, x);
  check_factors("norm_per_sample_double_backward", "g", g, x);
  check_factors("norm_per_sample_double_backward", "norm", norm, x);
  const auto format = sample_format(x);
  const Tensor xc = x.contiguous(format), vc = v.contiguous(format);
  const Pieces pieces(xc);
  std::vector<double> along = dots(pieces, vc, xc), p = numbers(g), q(p.size());
  const std::vector<double> r = numbers(norm);
  for (size_t i = 0; i < p.size(); ++i) {
    along[i] *= inverse(r[i]);
    p[i] *= inverse(r[i]);
    q[i] = -p[i] * along[i] * inverse(r[i]);
  }
  return {wanted[0] ? tensor_of(along, x) : at::empty({0}, g.options()),
          wanted[1] ? combine(pieces, vc, p, xc, q) : at::empty({0}, x.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("sum_squares_per_sample", &sum_squares_cpu);
  m.impl("norm_per_sample", &norm_cpu);
  m.impl("dot_per_sample", &dot_cpu);
  m.impl("scale_per_sample", &scale_cpu);
  m.impl("norm_per_sample_backward", &norm_backward_cpu);
  m.impl("norm_per_sample_double_backward", &norm_double_backward_cpu);
}

}  // namespace gk
