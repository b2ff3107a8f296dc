// upfirdn2d on the CPU: rows are summed into one row that stays in cache, which is then filtered across into the
// output; polyphase in both directions, so that no inserted zero is multiplied. A 2-D filter that is an outer product
// is split into its factors; any other sums over rows and columns at once.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <optional>

#include "cpu/fir_filter.h"
#include "cpu/huge_pages.h"

namespace gk {

template <class T, class A>
struct FirJob {
  const T* x;
  T* y;
  Strides xs, ys;
  FirStage<A> fir;
  FirView view;
  int64_t tile;  // pixels of a row that are done at a time, whole periods
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

template <class T, class A>
void run(const FirJob<T, A>& job) {
  const FirLine &h = job.fir.h, &v = job.fir.v;
  const int64_t block = job.view.block, rows = job.view.planes * v.out;
  const int64_t length = h.span(job.tile) * block, out = job.tile * block;
  const int64_t kept = job.fir.separable ? 1 : v.most, room = kept * (h.span(job.tile) + h.step) + job.tile;
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
    run(FirJob<T, A>{x.const_data_ptr<T>(), y.mutable_data_ptr<T>(), Strides(x), Strides(y),
                     FirStage<A>(h, v, filter, gain), view, tile});
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("upfirdn2d", &upfirdn2d); }

}  // namespace gk
