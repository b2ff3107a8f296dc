// filtered_lrelu on the CPU: a few rows of the upsampled image stay in cache, are activated there and summed into rows
// of the output. The linear pass, its derivative of any order, is the same with the signs read.
#include <ATen/Parallel.h>

#include "cpu/fir_filter.h"
#include "cpu/huge_pages.h"
#include "filtered_lrelu_op.h"

namespace gk {

template <class A>
struct Slopes {
  A above, below, bound;  // what u is multiplied by; the clamp, infinite where there is none
};

template <class T, class A>
struct FilteredJob {
  const T* x;
  T* y;  // or null
  Strides xs, ys;
  FirStage<A> up, down;
  FirView view;
  const A* bias;  // [C] or null
  Slopes<A> slopes;
  Signs signs;
  uint8_t* bits;  // [N, C, rows of the upsampled image, sign_bytes of one]
  double* sums;   // of each row of y, [planes, rows, block], or null

  int64_t first_bits(int64_t plane) const {
    const int64_t channels = plane / view.blocks * view.channels + view.channel(plane);
    return channels * up.v.out * sign_bytes(up.h.out);
  }
};

template <class A>
struct FilteredScratch {
  int64_t row_length, wide_length, middle_length;
  std::vector<A> numbers;
  std::vector<const A*> pointers;
  std::vector<int64_t> held;
  A *rows, *wide, *plain, *middle, *sum, *out, *up_room, *down_room;
  const A **up_pointers, **down_pointers, **row_pointers, **middle_pointers;
  int64_t *held_rows, *held_wide, *held_middle;

  template <class T>
  explicit FilteredScratch(const FilteredJob<T, A>& job) {
    const FirLine &uh = job.up.h, &uv = job.up.v, &dh = job.down.h, &dv = job.down.v;
    const int64_t block = job.view.block, span = dh.span(dh.out);
    const int64_t up_rows = job.up.separable ? 1 : uv.most, down_rows = job.down.separable ? 1 : dv.most;
    row_length = uh.span(uh.out) * block;
    wide_length = uh.out * block + kSignGroup;
    middle_length = (std::max(uh.out, dh.low + span) + std::max<int64_t>(0, -dh.low)) * block + kSignGroup;
    take(numbers, {{&rows, up_rows * row_length},
                   {&wide, uv.most * wide_length},
                   {&plain, wide_length},
                   {&middle, dv.most * middle_length},
                   {&sum, span * block},
                   {&out, dh.out * block},
                   {&up_room, up_rows * (uh.span(uh.out) + uh.step) + uh.out},
                   {&down_room, down_rows * (span + dh.step) + dh.out}});
    take(pointers, {{&up_pointers, up_rows * uh.period * uh.most},
                    {&down_pointers, down_rows * dh.period * dh.most},
                    {&row_pointers, std::max<int64_t>(1, uv.most)},
                    {&middle_pointers, dv.most}});
    take(held, {{&held_rows, std::max<int64_t>(1, uv.most)}, {&held_wide, uv.most}, {&held_middle, dv.most}});
  }

 private:
  template <class N>
  static void take(std::vector<N>& all, std::initializer_list<std::pair<N**, int64_t>> parts) {
    int64_t size = 0;
    for (const auto& [where, count] : parts) size += count;
    all.assign(size, N{});
    size = 0;
    for (const auto& [where, count] : parts) {
      *where = all.data() + size;
      size += count;
    }
  }
};

}  // namespace gk

#define GK_ISA_SPACE gk
#define GK_ISA_FILE "cpu/filtered_lrelu_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

// Channels that are done at a time. Forward and its linear passes must agree on it: the signs are packed accordingly.
int64_t block_of(const Tensor& x, bool channels_last, int64_t wide, int64_t widest) {
  constexpr int64_t kRow = 4096, kLeast = 16;  // numbers of a row of the upsampled image; of a pixel
  if (channels_last ? x.size(1) < FirView::kFewChannels : widest > FirView::kShortRow || x.size(1) < 4) return 1;
  const int64_t fits = std::max(kLeast, kRow / wide / kLeast * kLeast);
  return channels_last ? fits : std::min(fits, FirView::kBlock);
}

template <class T, class A>
void run(const FilteredJob<T, A>& job) {
  const FirLine& v = job.down.v;
  const int64_t planes = job.view.planes, wanted = 4 * at::get_num_threads();
  const int64_t least = std::max<int64_t>(8, 4 * v.most / v.step);  // rows that are worth their neighbours' repetition
  const int64_t per_plane = planes < wanted ? std::max<int64_t>(1, std::min(wanted / planes, v.out / least)) : 1;
  const int64_t chunk = (v.out + per_plane - 1) / per_plane, chunks = (v.out + chunk - 1) / chunk;
  const int64_t work = job.up.h.out * job.up.v.out * job.view.block / chunks;
  const auto first = [&](int64_t o) {
    return o == 0 ? 0 : o == v.out ? v.in : std::min(v.in, std::max<int64_t>(0, v.first(o)));
  };
  at::parallel_for(
      0, planes * chunks, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, work)), [&](int64_t unit, int64_t last) {
        const FilteredScratch<A> scratch(job);
        for (; unit < last; ++unit) {
          const int64_t begin = unit % chunks * chunk, end = std::min(v.out, begin + chunk);
          GK_ISA_CALL(gk, filtered_rows, job, unit / chunks, begin, end, first(begin), first(end), scratch);
        }
      });
}

FilteredResults pass(const FilteredPass& r) {
  const Tensor& x = r.x;
  FilteredResults out = check_filtered(r);
  const FirFilter fu = read_filter(x, r.up.f, r.up.fy, r.flip, kFilteredOp),
                  fd = read_filter(x, r.down.f, r.down.fy, r.flip, kFilteredOp);
  const std::vector<FirAxis>&u = out.up, &d = out.down;
  prefer_huge_pages(out.y);
  const FirView view(x, block_of(x, r.channels_last, u[0].out, std::max(u[0].in, d[0].out)));
  std::vector<double> sums(r.want_sums ? view.planes * d[1].out * view.block : 0, 0.0);
  with_fir_dtype(
      x.scalar_type(),
      [&](auto t, auto a) {
        using T = decltype(t);
        using A = decltype(a);
        std::vector<A> added;
        if (r.bias.has_value()) {
          const Tensor b = r.bias->contiguous();
          added.assign(b.const_data_ptr<T>(), b.const_data_ptr<T>() + b.numel());
        }
        if (x.numel() > 0)
          run(FilteredJob<T, A>{x.const_data_ptr<T>(),
                                r.want_y ? out.y.mutable_data_ptr<T>() : nullptr,
                                Strides(x),
                                Strides(r.want_y ? out.y : x),
                                FirStage<A>(FirLine(u[0]), FirLine(u[1]), fu, r.up.gain),
                                FirStage<A>(FirLine(d[0]), FirLine(d[1]), fd, r.down.gain),
                                view,
                                r.bias.has_value() ? added.data() : nullptr,
                                {A(r.gain), A(r.gain * r.slope), A(r.bound)},
                                r.signs,
                                const_cast<uint8_t*>(out.signs.const_data_ptr<uint8_t>()),
                                r.want_sums ? sums.data() : nullptr});
        if (!r.want_sums) return;
        std::vector<double> totals(x.size(1), 0.0);
        const double* sum = sums.data();
        for (int64_t plane = 0; plane < view.planes; ++plane)
          for (int64_t o = 0; o < d[1].out; ++o, sum += view.block)
            for (int64_t c = 0; c < view.width(plane); ++c) totals[view.channel(plane) + c] += sum[c];
        std::copy(totals.begin(), totals.end(), out.sums.mutable_data_ptr<T>());
      },
      kFilteredOp);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { implement_filtered<pass>(m); }

}  // namespace gk
