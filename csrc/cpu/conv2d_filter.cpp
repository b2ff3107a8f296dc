// conv_transpose2d_filter on the CPU: the rows of the transposed convolution stay in cache until the filter has read
// them. What lies between the two, the largest image of all, is never written to memory.
//
// A thread takes a strip of rows of one sample, from the top, a tile of the direct convolution (conv2d_direct.h) at a
// time; of each channel it keeps the last rows that the next tile's filter reads.
#include "conv2d_filter.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "autograd.h"
#include "cpu/conv2d_direct.h"
#include "cpu/fir_filter.h"
#include "cpu/huge_pages.h"

namespace gk::conv {

// A row's sum over rows, `width` numbers from `left` on, and the taps that go across it.
struct FilterLine {
  float* sum;
  int64_t left, width, n, taps;
  const float* cx;
  const float* const* across;
};

}  // namespace gk::conv

#define GK_ISA_SPACE gk::conv
#define GK_ISA_FILE "cpu/conv2d_filter_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::conv {
namespace {

struct Filtered {
  const Direct& d;
  const std::vector<float> cx, cy;
  const int64_t left, top, height, width;  // of the result; left and top are what is padded before
  int64_t held = int64_t(cy.size()) - 1;   // rows of a channel that are kept

  int64_t rows_of(int64_t quotas) const { return std::min(quotas * d.rows.out_phases, d.height); }
};

struct Scratch {
  std::vector<float> source, sums, fresh, kept, sum;
  std::vector<const float*> across, rows;
  int64_t fresh_size;

  explicit Scratch(const Filtered& f)
      : source(f.d.source_size()),
        sums(f.d.sums_size()),
        kept(f.d.out_channels * f.held * f.d.width),
        sum(f.width + f.cx.size() - 1, 0.f),
        rows(f.cy.size()),
        fresh_size(f.d.tile * f.d.rows.out_phases * f.d.width) {
    fresh.resize(kBlock * fresh_size);
    for (size_t t = 0; t < f.cx.size(); ++t) across.push_back(sum.data() + t);
  }
};

// Rows [begin, end) of the result of one sample, all channels.
void strip(const Filtered& f, const float* image, const float* scale, int64_t begin, int64_t end, Scratch& s,
           float* to) {
  const Direct& d = f.d;
  const int64_t taps = f.cy.size(), phases = d.rows.out_phases, width = d.width;
  const FilterLine line{s.sum.data(), f.left, width, f.width, int64_t(f.cx.size()), f.cx.data(), s.across.data()};
  const int64_t from = std::clamp<int64_t>(begin - f.top, 0, d.height) / phases;
  const int64_t last = (std::clamp<int64_t>(end - f.top + taps - 1, 0, d.height) + phases - 1) / phases;
  int64_t kept = 0;  // rows before the tile's that are held
  for (int64_t q = from; begin < end; q += d.tile) {
    const int64_t count = std::clamp<int64_t>(last - q, 0, d.tile), first = f.rows_of(q), past = f.rows_of(q + count);
    const int64_t stop = q + count >= last ? end : std::clamp(past + f.top - taps + 1, begin, end);
    const int64_t keep = std::min(f.held, kept + past - first), old = std::max<int64_t>(0, keep - (past - first));
    const Direct::Source source = d.gather(image, q, count, s.source.data());
    for (int64_t o = 0; o < d.out_channels; o += kBlock) {
      const int64_t block = std::min(kBlock, d.out_channels - o);
      for (int64_t py = 0; py < phases; ++py) {
        d.sum(source, 0, o, block, py, count, s.sums.data());
        for (int64_t j = 0; j < block; ++j)
          d.write(s.sums.data(), j, 0.f, d.lines(py, q, count), s.fresh.data() + j * s.fresh_size + py * width);
      }
      for (int64_t j = 0; j < block; ++j) {
        const float* fresh = s.fresh.data() + j * s.fresh_size;
        float* held = s.kept.data() + (o + j) * f.held * width;
        for (int64_t r = begin; r < stop; ++r) {
          const int64_t skipped = std::min(taps, std::max<int64_t>(0, f.top - r));
          const int64_t n = std::max<int64_t>(0, std::min(taps, d.height + f.top - r) - skipped);
          for (int64_t t = 0; t < n; ++t) {
            const int64_t at = r - f.top + skipped + t - first;
            s.rows[t] = at < 0 ? held + (kept + at) * width : fresh + at * width;
          }
          GK_ISA_CALL(gk::conv, filter_line, line, n, f.cy.data() + skipped, s.rows.data(),
                      scale == nullptr ? nullptr : scale + o + j, to + ((o + j) * f.height + r) * f.width);
        }
        std::copy_n(held + (kept - old) * width, old * width, held);
        std::copy_n(fresh + (past - first - (keep - old)) * width, (keep - old) * width, held + old * width);
      }
    }
    kept = keep;
    begin = stop;
  }
}

Tensor fused(const Tensor& x, const Tensor& weight, const std::vector<double>& fx, const std::vector<double>& fy,
             const Tensor& scale, const Geometry& g, at::IntArrayRef size, at::IntArrayRef filter_padding,
             at::IntArrayRef out, double gain) {
  const Direct d(x, weight, g, size, true);
  std::vector<float> cy;
  for (const double tap : fy) cy.push_back(float(gain * tap));
  const Filtered f{d,     std::vector<float>(fx.begin(), fx.end()), cy, filter_padding[0], filter_padding[2], out[0],
                   out[1]};
  const int64_t n = x.size(0), threads = at::get_num_threads();
  Tensor y = at::empty({n, d.out_channels, f.height, f.width}, x.options());
  prefer_huge_pages(y);
  // A strip computes some of its neighbour's rows again, to the same numbers: few strips, evenly shared, and high.
  const int64_t most = std::max<int64_t>(1, f.height / std::max<int64_t>(8, 4 * f.held));
  int64_t strips = 1;
  while (n * strips % threads != 0 && n * strips < 4 * threads && strips < most) ++strips;
  const int64_t rows = (f.height + strips - 1) / strips;
  strips = (f.height + rows - 1) / rows;
  const float* from = x.const_data_ptr<float>();
  const float* by = scale.defined() ? scale.const_data_ptr<float>() : nullptr;
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, n * strips, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(f);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item / strips, first = item % strips * rows;
      strip(f, from + i * d.in_channels * d.h * d.w, by == nullptr ? by : by + i * d.out_channels, first,
            std::min(f.height, first + rows), scratch, to + i * d.out_channels * f.height * f.width);
    }
  });
  return y;
}

Tensor conv_transpose2d_filter(const Tensor& x, const Tensor& weight, const Tensor& f, const std::optional<Tensor>& fy,
                               const std::optional<Tensor>& scale, at::IntArrayRef stride, at::IntArrayRef padding,
                               at::IntArrayRef size, at::IntArrayRef filter_padding, bool flip, double gain) {
  const Geometry g = check_transpose(x, weight, std::nullopt, stride, padding, {1, 1}, 1, size);
  const int64_t n = x.size(0), c = weight.size(1);
  if (scale.has_value())
    TORCH_CHECK_VALUE(scale->sizes() == at::IntArrayRef({n, c}), "conv_transpose2d_filter: scale has shape ",
                      scale->sizes(), ", expected ", n, ", ", c);
  const at::MemoryFormat format = format_of(x, weight);
  const bool whole = !any_empty(x, weight) && size[0] * size[1] > 0 && filter_padding.size() == 4 &&
                     filter_padding[0] >= 0 && filter_padding[1] >= 0 && g.stride != Pair{1, 1} &&
                     (!scale.has_value() || scale->scalar_type() == at::kFloat);
  if (whole && !product_pays(x, weight.sizes(), n, x.sizes().slice(2), g, format) &&
      direct_pays(x, weight, g, size, true, format)) {
    const FirFilter filter = read_filter(x, f, fy, flip, "conv_transpose2d_filter");
    std::vector<int64_t> out;
    for (const int d : {0, 1})
      out.push_back(size[d] + filter_padding[2 - 2 * d] + filter_padding[3 - 2 * d] + 1 -
                    (fy.has_value() && d == 0 ? *fy : f).size(d == 0 ? 0 : -1));
    if (filter.separable() && out[0] > 0 && out[1] > 0)
      return fused(x.contiguous(), weight.contiguous(), filter.x, filter.y,
                   scale.has_value() ? scale->contiguous() : Tensor(), g, size, filter_padding, out, gain);
  }
  return in_two(x, weight, f, fy, scale, stride, padding, c10::fromIntArrayRefSlow(size),
                c10::fromIntArrayRefSlow(filter_padding), flip, gain);
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("conv_transpose2d_filter", &conv_transpose2d_filter); }

}  // namespace gk::conv
