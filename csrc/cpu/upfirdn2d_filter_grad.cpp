// The gradient of upfirdn2d in its filter: every tap's products of the output's gradient and the image, row by row.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>

#include "cpu/upfirdn2d_plan.h"

namespace gk {

template <class T>
struct FilterGradJob {
  const T *x, *g;
  Strides xs, gs;
  FirLine h, v;
  FirView view;
  int64_t tile;  // pixels of a row of g that are done at a time, whole periods
};

template <class A>
struct FilterGradScratch {
  A *rows, *g, *room;
  int64_t length;  // of a row of x
  const A** pointers;
  double* products;
  int64_t* held;
};

}  // namespace gk

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/upfirdn2d_filter_grad_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

// Cut in pieces that do not depend on the number of threads, so that neither does the result.
template <class T, class A>
std::vector<double> run(const FilterGradJob<T>& job) {
  constexpr int64_t kPiece = 65536, kPieces = 512;
  const FirLine &h = job.h, &v = job.v;
  const int64_t block = job.view.block, rows = job.view.planes * v.out, taps = h.taps * v.taps;
  const int64_t least = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, h.out * block));
  const int64_t piece = std::max(least, (rows + kPieces - 1) / kPieces), pieces = (rows + piece - 1) / piece;
  std::vector<double> partial(pieces * taps, 0.0), total(taps, 0.0);
  const int64_t length = (h.span(job.tile) + h.step) * block, width = (job.tile + h.period) * block;
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<A[]> numbers(new A[length * (v.most + 1) + 2 * width]);
    std::vector<const A*> pointers(h.most);
    std::vector<double> products(h.most);
    std::vector<int64_t> held(v.most);
    A* at = numbers.get();
    const FilterGradScratch<A> scratch{
        at, at + length * v.most, at + length * v.most + width, length, pointers.data(), products.data(), held.data()};
    for (int64_t p = begin; p < end; ++p)
      for (int64_t row = p * piece, stop = std::min(rows, row + piece); row < stop;) {
        const int64_t plane = row / v.out, o = row % v.out, last = std::min(v.out, o + stop - row);
        GK_ISA_CALL(gk, filter_grad_rows, job, plane, o, last, scratch, partial.data() + p * taps);
        row += last - o;
      }
  });
  for (int64_t p = 0; p < pieces; ++p)
    for (int64_t k = 0; k < taps; ++k) total[k] += partial[p * taps + k];
  return total;
}

at::Tensor filter_grad(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef taps, at::IntArrayRef up,
                       at::IntArrayRef down, at::IntArrayRef padding, bool flip, double gain) {
  const auto axes = fir_axes(x, taps, up, down, padding);
  const FirLine h(axes[0]), v(axes[1]);
  check_fir_cotangent(x, g, axes);
  const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor out = at::empty({v.taps, h.taps}, x.options().dtype(type).memory_format(at::MemoryFormat::Contiguous));
  const bool last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  const FirView view(x, last, std::max(h.in, h.out), true);
  constexpr int64_t kTile = 4096;  // numbers of a row held at a time
  const int64_t periods = std::max<int64_t>(1, kTile / (view.block * std::max(h.period, h.step)));
  const int64_t tile = std::min(periods, (h.out + h.period - 1) / h.period) * h.period;
  std::vector<double> total;
  with_fir_dtype(x.scalar_type(), [&](auto t, auto a) {
    using T = decltype(t);
    total =
        run<T, decltype(a)>({x.const_data_ptr<T>(), g.const_data_ptr<T>(), Strides(x), Strides(g), h, v, view, tile});
  });
  if (!flip) std::reverse(total.begin(), total.end());
  for (size_t k = 0; k < total.size(); ++k) {
    if (type == at::kDouble)
      out.mutable_data_ptr<double>()[k] = gain * total[k];
    else
      out.mutable_data_ptr<float>()[k] = float(gain * total[k]);
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("upfirdn2d_filter_grad", &filter_grad); }

}  // namespace gk
