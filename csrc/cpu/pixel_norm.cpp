// pixel_norm on the CPU: sums over each vector, then the result from what the caches hold.
#include "pixel_norm.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "pixel_norm_op.h"

namespace gk {

// Null: no such operand, or a result that is not wanted.
template <class T>
struct PixelNormArgs {
  const T *x, *g, *v;
  T *for_x, *for_g;
};

}  // namespace gk

#define GK_ISA_SPACE gk::pixel
#define GK_ISA_FILE "cpu/pixel_norm_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

constexpr int64_t kWidth = 512;    // vectors side by side that are worked on at once, kBlock of the loops
constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

#if GK_X86_TARGETS
#define GK_PIXEL_CALL(function, ...)                                        \
  (active_isa() == Isa::avx512 ? pixel::avx512::function<K, T>(__VA_ARGS__) \
   : active_isa() == Isa::avx2 ? pixel::avx2::function<K, T>(__VA_ARGS__)   \
                               : pixel::base::function<K, T>(__VA_ARGS__))
#else
#define GK_PIXEL_CALL(function, ...) pixel::base::function<K, T>(__VA_ARGS__)
#endif

template <int K, class T>
void walk(const PixelNormCall& c, const PixelNormArgs<T>& a) {
  const int64_t inner = c.inner, count = c.count;
  if (inner == 1) {
    at::parallel_for(0, c.outer, std::max<int64_t>(1, kGrain / count),
                     [&](int64_t begin, int64_t end) { GK_PIXEL_CALL(rows_unit, a, begin, end, count, c.eps); });
    return;
  }
  const int64_t pieces = (inner + kWidth - 1) / kWidth;
  const int64_t unit_size = count * std::min(inner, kWidth);
  at::parallel_for(0, c.outer * pieces, std::max<int64_t>(1, kGrain / unit_size), [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t at = unit % pieces * kWidth, n = std::min(kWidth, inner - at);
      GK_PIXEL_CALL(columns_unit, a, unit / pieces * count * inner + at, n, count, inner, c.eps);
    }
  });
}

// Runs order K; undefined results are not wanted.
template <int K>
void run(const PixelNormCall& c, const Tensor& g, const Tensor& v, const Tensor& for_x, const Tensor& for_g) {
  if (c.x.numel() == 0) return;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, c.x.scalar_type(), "pixel_norm", [&] {
    const auto in = [](const Tensor& t) { return t.defined() ? t.const_data_ptr<scalar_t>() : nullptr; };
    const auto out = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<scalar_t>() : nullptr; };
    walk<K, scalar_t>(c, {in(c.x), in(g), in(v), out(for_x), out(for_g)});
  });
}

Tensor pixel_norm_cpu(const Tensor& x, int64_t dim, double eps) {
  const PixelNormCall c(x, dim, eps);
  Tensor y = c.empty();
  run<0>(c, {}, {}, y, {});
  return y;
}

Tensor pixel_norm_backward_cpu(const Tensor& g, const Tensor& x, int64_t dim, double eps) {
  const PixelNormCall c(x, dim, eps);
  Tensor gx = c.empty();
  run<1>(c, c.other(g, "g"), {}, gx, {});
  return gx;
}

std::tuple<Tensor, Tensor> pixel_norm_double_backward_cpu(const Tensor& v, const Tensor& g, const Tensor& x,
                                                          int64_t dim, double eps, std::array<bool, 2> wanted) {
  const PixelNormCall c(x, dim, eps);
  Tensor for_g = c.empty(wanted[0]), for_x = c.empty(wanted[1]);
  run<2>(c, c.other(g, "g"), c.other(v, "v"), wanted[1] ? for_x : Tensor(), wanted[0] ? for_g : Tensor());
  return {for_g, for_x};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("pixel_norm", &pixel_norm_cpu);
  m.impl("pixel_norm_backward", &pixel_norm_backward_cpu);
  m.impl("pixel_norm_double_backward", &pixel_norm_double_backward_cpu);
}

}  // namespace gk
