// filtered_lrelu on the CPU: a few rows of the upsampled image stay in cache, are activated there and summed into rows
// of the output. The linear pass, its derivative of any order, is the same with the signs read.
#include "filtered_lrelu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>

#include "cpu/fir_filter.h"
#include "cpu/huge_pages.h"

namespace gk {

enum class Signs { none, write, read };

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
using std::optional;

constexpr const char* kOp = "filtered_lrelu";

struct Filter {
  const Tensor& f;
  const optional<Tensor>& fy;
  at::IntArrayRef up, down, padding;
  double gain;
};

// {x, y} axes of a resampling of `size`, [H, W].
std::vector<FirLine> lines(at::IntArrayRef size, const Filter& f) {
  TORCH_CHECK(f.f.dim() > 0 && f.up.size() == 2 && f.down.size() == 2 && f.padding.size() == 4, kOp,
              ": expected a filter, factors [x, y] and padding [x0, x1, y0, y1]");
  const auto axis = [&](int i, int64_t taps) {
    return FirLine(fir_axis(kOp, size[1 - i], taps, f.up[i], f.down[i], f.padding[2 * i], f.padding[2 * i + 1]));
  };
  return {axis(0, f.f.size(-1)), axis(1, f.fy.value_or(f.f).size(0))};
}

struct Results {
  Tensor y, signs, sums;
};

struct Request {
  Signs signs;
  bool channels_last, want_y, want_sums;
  double gain, slope, bound;
};

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

Results pass(const Tensor& x, const optional<Tensor>& bias, const optional<Tensor>& signs, const Filter& up,
             const Filter& down, bool flip, const Request& r) {
  TORCH_CHECK(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, kOp, ": x has shape ", x.sizes(),
              ", expected [N, C, H, W] with C, H and W at least 1");
  TORCH_CHECK(!bias.has_value() || (bias->scalar_type() == x.scalar_type() && bias->device() == x.device() &&
                                    bias->dim() == 1 && bias->size(0) == x.size(1)),
              kOp, ": bias does not match x ", x.sizes(), " of ", x.scalar_type(), ", expected [", x.size(1), "]");
  const FirFilter fu = read_filter(x, up.f, up.fy, flip, kOp), fd = read_filter(x, down.f, down.fy, flip, kOp);
  const auto u = lines({x.size(2), x.size(3)}, up);
  const auto d = lines({u[1].out, u[0].out}, down);
  const std::vector<int64_t> kept{x.size(0), x.size(1), u[1].out, sign_bytes(u[0].out)};
  const auto bytes = x.options().dtype(at::kByte);
  Results out{at::empty({0}, x.options()), at::empty({0}, bytes),
              at::empty({r.want_sums ? x.size(1) : 0}, x.options())};
  if (r.want_y)
    out.y = at::empty(
        {x.size(0), x.size(1), d[1].out, d[0].out},
        x.options().memory_format(r.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  if (r.signs == Signs::write) out.signs = at::empty(kept, bytes);
  if (r.signs == Signs::read) {
    TORCH_CHECK(
        signs->sizes() == at::IntArrayRef(kept) && signs->scalar_type() == at::kByte && signs->device() == x.device(),
        kOp, ": signs of ", signs->scalar_type(), " have shape ", signs->sizes(), ", expected uint8 ", kept);
    out.signs = signs->contiguous();
  }
  prefer_huge_pages(out.y);
  const FirView view(x, block_of(x, r.channels_last, u[0].out, std::max(u[0].in, d[0].out)));
  std::vector<double> sums(r.want_sums ? view.planes * d[1].out * view.block : 0, 0.0);
  with_fir_dtype(
      x.scalar_type(),
      [&](auto t, auto a) {
        using T = decltype(t);
        using A = decltype(a);
        std::vector<A> added;
        if (bias.has_value()) {
          const Tensor b = bias->contiguous();
          added.assign(b.const_data_ptr<T>(), b.const_data_ptr<T>() + b.numel());
        }
        if (x.numel() > 0)
          run(FilteredJob<T, A>{x.const_data_ptr<T>(),
                                r.want_y ? out.y.mutable_data_ptr<T>() : nullptr,
                                Strides(x),
                                Strides(r.want_y ? out.y : x),
                                FirStage<A>(u[0], u[1], fu, up.gain),
                                FirStage<A>(d[0], d[1], fd, down.gain),
                                view,
                                bias.has_value() ? added.data() : nullptr,
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
      kOp);
  return out;
}

Results forward(const Tensor& x, const optional<Tensor>& bias, const Tensor& fu, const optional<Tensor>& fuy,
                const Tensor& fd, const optional<Tensor>& fdy, at::IntArrayRef up, at::IntArrayRef down,
                at::IntArrayRef padding, bool flip, double gain, double slope, double clamp, Signs signs) {
  constexpr int64_t one[2] = {1, 1}, none[4] = {0, 0, 0, 0};
  TORCH_CHECK(up.size() == 2, kOp, ": up is ", up, ", expected [x, y]");
  const bool last = x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return pass(x, bias, {}, {fu, fuy, up, one, padding, double(up[0] * up[1])}, {fd, fdy, one, down, none, 1}, flip,
              {signs, last, true, false, gain, slope, clamp < 0 ? INFINITY : clamp});
}

Tensor filtered_lrelu(const Tensor& x, const optional<Tensor>& bias, const Tensor& fu, const optional<Tensor>& fuy,
                      const Tensor& fd, const optional<Tensor>& fdy, at::IntArrayRef up, at::IntArrayRef down,
                      at::IntArrayRef padding, bool flip, double gain, double slope, double clamp) {
  return forward(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, Signs::none).y;
}

std::tuple<Tensor, Tensor> filtered_lrelu_signs(const Tensor& x, const optional<Tensor>& bias, const Tensor& fu,
                                                const optional<Tensor>& fuy, const Tensor& fd,
                                                const optional<Tensor>& fdy, at::IntArrayRef up, at::IntArrayRef down,
                                                at::IntArrayRef padding, bool flip, double gain, double slope,
                                                double clamp) {
  const Results r = forward(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, Signs::write);
  return {r.y, r.signs};
}

std::tuple<Tensor, Tensor> filtered_lrelu_linear(const Tensor& x, const optional<Tensor>& bias, const Tensor& signs,
                                                 const Tensor& fu, const optional<Tensor>& fuy, const Tensor& fd,
                                                 const optional<Tensor>& fdy, at::IntArrayRef up, at::IntArrayRef down,
                                                 at::IntArrayRef pad_up, at::IntArrayRef pad_down, bool flip,
                                                 double up_gain, double gain, double slope, bool channels_last,
                                                 bool want_y, bool want_sums) {
  constexpr int64_t one[2] = {1, 1};
  const Results r = pass(x, bias, signs, {fu, fuy, up, one, pad_up, up_gain}, {fd, fdy, one, down, pad_down, 1}, flip,
                         {Signs::read, channels_last, want_y, want_sums, gain, slope, INFINITY});
  return {r.y, r.sums};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("filtered_lrelu", &filtered_lrelu);
  m.impl("filtered_lrelu_signs", &filtered_lrelu_signs);
  m.impl("filtered_lrelu_linear", &filtered_lrelu_linear);
}

}  // namespace gk
