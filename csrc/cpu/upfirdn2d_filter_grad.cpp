// The gradient of upfirdn2d in its filter: every tap's products of the output's gradient and the image, row by row. A
// separable filter's is had by axes: the image goes through one axis's taps and is then multiplied with those of the
// other, so that the work grows with the sum of the taps' numbers and not with their product.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <memory>
#include <tuple>

#include "cpu/fir_filter.h"

namespace gk {

template <class T, class A>
struct FilterGradJob {
  const T *x, *g;
  Strides xs, gs;
  FirLine h, v;
  FirView view;
  int64_t tile;                // pixels of a row of g that are done at a time, whole periods
  const FirStage<A>* factors;  // of the filter, where the gradients are had by axes, else null
  bool want_x, want_y;

  int64_t sums() const { return factors ? h.taps + v.taps : h.taps * v.taps; }
};

template <class A>
struct FilterGradScratch {
  A *rows, *g, *room, *sum, *wide;  // sum: rows of x, summed down; wide: rows of x filtered across, at each pixel of g
  int64_t length, width;            // of a row of x, of g
  const A** pointers;
  double* products;
  int64_t *held, *held_wide;
};

}  // namespace gk

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/upfirdn2d_filter_grad_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

// Cut in pieces that do not depend on the number of threads, so that neither does the result.
template <class T, class A>
std::vector<double> run(const FilterGradJob<T, A>& job) {
  constexpr int64_t kPiece = 65536, kPieces = 512;
  const FirLine &h = job.h, &v = job.v;
  const int64_t block = job.view.block, rows = job.view.planes * v.out, sums = job.sums();
  const int64_t least = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, h.out * block));
  const int64_t piece = std::max(least, (rows + kPieces - 1) / kPieces), pieces = (rows + piece - 1) / piece;
  std::vector<double> partial(pieces * sums, 0.0), total(sums, 0.0);
  const int64_t length = (h.span(job.tile) + h.step) * block, width = (job.tile + h.period) * block;
  const int64_t most = std::max(h.most, v.most), sum = job.factors ? length : 0;
  const int64_t wide = job.factors && job.want_y ? width * v.most : 0;
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> numbers(new A[length * v.most + width + std::max(width, length) + sum + wide]);
    std::vector<const A*> pointers(most);
    std::vector<double> products(most);
    std::vector<int64_t> held(2 * v.most);
    A *row = numbers.get(), *g = row + length * v.most, *room = g + width, *at = room + std::max(width, length);
    const FilterGradScratch<A> scratch{
        row, g, room, at, at + sum, length, width, pointers.data(), products.data(), held.data(), held.data() + v.most};
    for (int64_t p = begin; p < end; ++p)
      for (int64_t row = p * piece, stop = std::min(rows, row + piece); row < stop;) {
        const int64_t plane = row / v.out, o = row % v.out, last = std::min(v.out, o + stop - row);
        GK_ISA_CALL(gk, filter_grad_rows, job, plane, o, last, scratch, partial.data() + p * sums);
        row += last - o;
      }
  });
  for (int64_t p = 0; p < pieces; ++p)
    for (int64_t k = 0; k < sums; ++k) total[k] += partial[p * sums + k];
  return total;
}

struct FilterGradCall {
  const at::Tensor &x, &g;
  const std::vector<FirAxis> axes;
  const FirLine h{axes[0]}, v{axes[1]};

  FilterGradCall(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef taps, at::IntArrayRef up,
                 at::IntArrayRef down, at::IntArrayRef padding)
      : x(x), g(g), axes(fir_axes(x, taps, up, down, padding)) {
    check_fir_cotangent(x, g, axes);
  }

  // [KH, KW] in correlation order; or, by the factors of the filter, [KW] and then [KH].
  std::vector<double> sums(const FirFilter* factors, bool want_x, bool want_y) const {
    const bool last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    const FirView view(x, last, std::max(h.in, h.out), true);
    constexpr int64_t kTile = 4096;  // numbers of a row held at a time
    const int64_t periods = std::max<int64_t>(1, kTile / (view.block * std::max(h.period, h.step)));
    const int64_t tile = std::min(periods, (h.out + h.period - 1) / h.period) * h.period;
    std::vector<double> total;
    with_fir_dtype(x.scalar_type(), [&](auto t, auto a) {
      using T = decltype(t);
      using A = decltype(a);
      std::optional<FirStage<A>> stage;
      if (factors != nullptr) stage.emplace(h, v, *factors, 1.0);
      total = run<T, A>({x.const_data_ptr<T>(), g.const_data_ptr<T>(), Strides(x), Strides(g), h, v, view, tile,
                         stage.has_value() ? &*stage : nullptr, want_x, want_y});
    });
    return total;
  }

  at::Tensor result(std::vector<double> sums, at::IntArrayRef size, bool flip, double gain) const {
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor out = at::empty(size, x.options().dtype(type).memory_format(at::MemoryFormat::Contiguous));
    if (!flip) std::reverse(sums.begin(), sums.end());
    for (size_t k = 0; k < sums.size(); ++k) {
      if (type == at::kDouble)
        out.mutable_data_ptr<double>()[k] = gain * sums[k];
      else
        out.mutable_data_ptr<float>()[k] = float(gain * sums[k]);
    }
    return out;
  }
};

at::Tensor filter_grad(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef taps, at::IntArrayRef up,
                       at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain) {
  const FilterGradCall call(x, g, taps, up, down, padding);
  return call.result(call.sums(nullptr, false, false), {call.v.taps, call.h.taps}, flip, gain);
}

std::tuple<at::Tensor, at::Tensor> factor_grads(const at::Tensor& x, const at::Tensor& g, const at::Tensor& f,
                                                const at::Tensor& fy, at::IntArrayRef up, at::IntArrayRef down,
                                                at::IntArrayRef padding, bool flip, double gain,
                                                std::array<bool, 2> wanted) {
  check_fir_filter(x, f, fy, "upfirdn2d_factor_grads");
  const FilterGradCall call(x, g, {fy.size(0), f.size(0)}, up, down, padding);
  const FirFilter factors{fir_numbers(f, flip), fir_numbers(fy, flip), {}};
  const int64_t kw = f.size(0), kh = fy.size(0);
  std::vector<double> gx(kw, 0.0), gy(kh, 0.0);
  if (call.h.most * call.v.most > call.h.most + call.v.most) {  // else, as measured, the table of all taps is quicker
    const auto sums = call.sums(&factors, wanted[0], wanted[1]);
    std::copy_n(sums.begin(), kw, gx.begin());
    std::copy_n(sums.begin() + kw, kh, gy.begin());
  } else {
    const auto whole = call.sums(nullptr, false, false);
    for (int64_t i = 0; i < kh; ++i)
      for (int64_t j = 0; j < kw; ++j) {
        gx[j] += whole[i * kw + j] * factors.y[i];
        gy[i] += whole[i * kw + j] * factors.x[j];
      }
  }
  const auto result = [&](std::vector<double>& sums, bool want) {
    if (!want) sums.clear();
    return call.result(sums, {int64_t(sums.size())}, flip, gain);
  };
  return {result(gx, wanted[0]), result(gy, wanted[1])};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("upfirdn2d_filter_grad", &filter_grad);
  m.impl("upfirdn2d_factor_grads", &factor_grads);
}

}  // namespace gk
