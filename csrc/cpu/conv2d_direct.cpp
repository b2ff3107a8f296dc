// The direct convolution: how its work is laid out and done (conv2d_direct.h), and where it pays.
#include "cpu/conv2d_direct.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/huge_pages.h"

#define GK_ISA_SPACE gk::conv::loops
#define GK_ISA_FILE "cpu/conv2d_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::conv {
namespace {

constexpr int64_t kScratch = 96 << 10;  // floats: what stays in a core's second-level cache beside the weights
constexpr int64_t kLeast = 128;         // samples of a tile's channel: enough to fill a pass's vectors,
constexpr int64_t kMost = 4096;         // few enough that its sums are still in cache when written out

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && a < 0); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Axis::Axis(int64_t stride, int64_t padding, int64_t dilation, int64_t kernel, int64_t out, bool transposed)
    : in_phases(transposed ? 1 : stride),
      out_phases(transposed ? stride : 1),
      quotas(ceil_div(out, out_phases)),
      first(0),
      span(0),
      taps(out_phases) {
  int64_t last = 0;
  bool any = false;
  for (int64_t phase = 0; phase < out_phases; ++phase)
    for (int64_t t = 0; t < kernel; ++t) {
      const int64_t shift = transposed ? phase + padding - t * dilation : t * dilation - padding;
      if (transposed && shift % stride != 0) continue;
      const int64_t start = floor_div(shift, stride);
      taps[phase].push_back({t, transposed ? 0 : shift - start * stride, start});
      first = any ? std::min(first, start) : start;
      last = any ? std::max(last, start) : start;
      any = true;
    }
  span = last - first;
  for (auto& list : taps)
    for (Tap& tap : list) tap.start -= first;
}

Direct::Direct(const at::Tensor& x, const at::Tensor& weight, const Geometry& g, at::IntArrayRef size, bool transposed)
    : g(g),
      transposed(transposed),
      h(x.size(2)),
      w(x.size(3)),
      in_channels(x.size(1) / g.groups),
      out_channels(transposed ? weight.size(1) : weight.size(0) / g.groups),
      height(size[0]),
      width(size[1]),
      rows(g.stride[0], g.padding[0], g.dilation[0], weight.size(2), height, transposed),
      cols(g.stride[1], g.padding[1], g.dilation[1], weight.size(3), width, transposed),
      pitch(row_pitch()) {
  const int64_t row_cost = in_channels * rows.in_phases * cols.in_phases * pitch;
  tile = std::max(std::min(kScratch / row_cost - rows.span, kMost / pitch), ceil_div(kLeast, pitch));
  // Enough tiles for all threads, evenly filled; tiles do not change the sums.
  tile = std::min(tile, ceil_div(rows.quotas, ceil_div(4 * at::get_num_threads(), x.size(0) * g.groups)));
  tiles = ceil_div(rows.quotas, tile);
  tile = ceil_div(rows.quotas, tiles);
  phase_size = (tile + rows.span) * pitch;
  plane = rows.in_phases * cols.in_phases * phase_size;
  for (int64_t py = 0; py < rows.out_phases; ++py)
    for (int64_t px = 0; px < cols.out_phases; ++px) phases.push_back(pack(weight, rows.taps[py], cols.taps[px]));
}

// Zeros after a row serve as those before the next: an access past the pitch meets the next row's first samples,
// which must be zeros as well as what it meant.
int64_t Direct::row_pitch() const {
  int64_t before = cols.quotas + cols.span, after = 0;
  for (int64_t fx = 0; fx < cols.in_phases; ++fx) {
    const auto [left, right] = inside(cols, w, fx, 0, cols.quotas + cols.span);
    before = std::min(before, left);
    after = std::max(after, right);
  }
  return std::max({cols.quotas, after, cols.quotas + cols.span - before});
}

Phase Direct::pack(const at::Tensor& weight, const std::vector<Axis::Tap>& down,
                   const std::vector<Axis::Tap>& across) const {
  const int64_t kw = weight.size(3), area = weight.size(2) * kw;
  // The transposed convolution's weight has the source's channels first.
  const int64_t step_o = transposed ? area : in_channels * area, step_i = transposed ? out_channels * area : area;
  Phase p;
  std::vector<int64_t> taps, starts;
  for (const auto& a : down)
    for (const auto& b : across) {
      starts.push_back((a.phase * cols.in_phases + b.phase) * phase_size + a.start * pitch + b.start);
      taps.push_back(a.index * kw + b.index);
    }
  for (int64_t i = 0; i < in_channels; ++i)
    for (const int64_t start : starts) {
      p.offsets.push_back(i * plane + start);
      p.in_place.push_back(i * h * w);
    }
  const int64_t terms = p.offsets.size(), blocks = ceil_div(out_channels, kBlock);
  p.weight.resize(g.groups * out_channels * terms);
  const float* from = weight.const_data_ptr<float>();
  at::parallel_for(0, g.groups * blocks, 1 + 4096 / (terms + 1), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / blocks, o = item % blocks * kBlock, block = std::min(kBlock, out_channels - o);
      const float* filters = from + group * in_channels * out_channels * area + o * step_o;
      float* to = p.weight.data() + (group * out_channels + o) * terms;
      for (int64_t i = 0; i < in_channels; ++i, filters += step_i)
        for (const int64_t tap : taps)
          for (int64_t j = 0; j < block; ++j) *to++ = filters[j * step_o + tap];
    }
  });
  return p;
}

// Copies one channel's rows for the tile at q0, zeros around the image included.
void Direct::read(const float* image, int64_t q0, int64_t count, float* to) const {
  for (int64_t fy = 0; fy < rows.in_phases; ++fy)
    for (int64_t fx = 0; fx < cols.in_phases; ++fx, to += phase_size) {
      const auto [top, bottom] = inside(rows, h, fy, q0, count + rows.span);
      const auto [left, right] = inside(cols, w, fx, 0, pitch);
      std::fill(to, to + top * pitch, 0.f);
      std::fill(to + bottom * pitch, to + (count + rows.span) * pitch, 0.f);
      const int64_t row = (q0 + top + rows.first) * rows.in_phases + fy;
      const int64_t col = (left + cols.first) * cols.in_phases + fx;
      const ConvPlane p{bottom - top, right - left, pitch, rows.in_phases, w, cols.in_phases};
      GK_ISA_CALL(loops, conv_read, image + row * w + col, p, left, to + top * pitch);
    }
}

// Which of `count` scratch samples from `at` on lie in an image of `extent` samples, whose phase they are of.
std::pair<int64_t, int64_t> Direct::inside(const Axis& axis, int64_t extent, int64_t phase, int64_t at, int64_t count) {
  const int64_t shift = at + axis.first;
  const int64_t begin = std::clamp<int64_t>(-shift, 0, count);
  return {begin, std::clamp<int64_t>(ceil_div(extent - phase, axis.in_phases) - shift, begin, count)};
}

// A tile that needs no zeros and no split is read where it lies, unless whole vectors would pass the image's end.
bool Direct::reads_in_place(int64_t count) const {
  return rows.in_phases * cols.in_phases == 1 &&
         rows.span + cols.span + std::abs(rows.first) + std::abs(cols.first) == 0 && rows.quotas == h &&
         cols.quotas == w && count * w % kSlack == 0;
}

Direct::Source Direct::gather(const float* image, int64_t q0, int64_t count, float* scratch) const {
  if (reads_in_place(count)) return {image + q0 * w, true};
  for (int64_t c = 0; c < in_channels; ++c) read(image + c * h * w, q0, count, scratch + c * plane);
  return {scratch, false};
}

void Direct::sum(const Source& from, int64_t group, int64_t o, int64_t block, int64_t py, int64_t count,
                 float* sums) const {
  for (int64_t px = 0; px < cols.out_phases; ++px) {
    const Phase& p = phases[py * cols.out_phases + px];
    const int64_t terms = p.offsets.size();
    const float* weight = p.weight.data() + (group * out_channels + o) * terms;
    GK_ISA_CALL(loops, conv_rows, block, from.at, weight, from.in_place ? p.in_place.data() : p.offsets.data(), terms,
                count * pitch, sums + px * kBlock * sums_pitch(), sums_pitch());
  }
}

int64_t Direct::lines(int64_t py, int64_t q0, int64_t count) const {
  return std::min(count, ceil_div(height - py, rows.out_phases) - q0);
}

void Direct::write(const float* sums, int64_t j, float add, int64_t lines, float* to) const {
  const float* sum = sums + j * sums_pitch();
  if (cols.out_phases == 2) {
    const ConvPlane p{lines, width, pitch, rows.out_phases, width, 2};
    GK_ISA_CALL(loops, conv_weave, sum, sum + kBlock * sums_pitch(), add, p, to);
    return;
  }
  for (int64_t px = 0; px < cols.out_phases; ++px) {
    const int64_t columns = ceil_div(width - px, cols.out_phases);
    const ConvPlane p{lines, columns, pitch, rows.out_phases, width, cols.out_phases};
    GK_ISA_CALL(loops, conv_write, sum + px * kBlock * sums_pitch(), add, p, to + px);
  }
}

namespace {

// All output channels of one tile of one group; `image` is the group's first source channel, `to` its first result.
void run(const Direct& d, const float* image, const float* bias, int64_t group, int64_t q0, float* source, float* sums,
         float* to) {
  const int64_t count = std::min(d.tile, d.rows.quotas - q0);
  const Direct::Source from = d.gather(image, q0, count, source);
  for (int64_t o = 0; o < d.out_channels; o += kBlock) {
    const int64_t block = std::min(kBlock, d.out_channels - o);
    for (int64_t py = 0; py < d.rows.out_phases; ++py) {
      d.sum(from, group, o, block, py, count, sums);
      const int64_t first = q0 * d.rows.out_phases + py;
      for (int64_t j = 0; j < block; ++j)
        d.write(sums, j, bias == nullptr ? 0.f : bias[o + j], d.lines(py, q0, count),
                to + ((o + j) * d.height + first) * d.width);
    }
  }
}

}  // namespace

bool direct_pays(const at::Tensor& x, const at::Tensor& weight, const Geometry& g, at::IntArrayRef size,
                 bool transposed, at::MemoryFormat format) {
  if (x.scalar_type() != at::kFloat || format != at::MemoryFormat::Contiguous) return false;
  const int64_t in_channels = x.size(1) / g.groups;
  const int64_t fewer = std::min(in_channels, transposed ? weight.size(1) : weight.size(0) / g.groups);
  const int64_t columns = transposed ? size[1] / g.stride[1] : size[1];
  const bool strided = g.stride != Pair{1, 1};
  // Measured on AVX2 and AVX-512. Narrow images leave vectors unfilled, and a wide one's weights are read once a tile.
  if (columns < 12) return false;
  if (transposed && strided) return in_channels <= 256 || columns >= 32;
  if (g.groups > 1) return true;
  if (transposed) return fewer <= 32;
  return strided ? in_channels <= 16 || columns >= 128 : fewer <= 32;
}

at::Tensor direct(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  const Geometry& g, at::IntArrayRef size, bool transposed) {
  const Direct d(x, weight.contiguous(), g, size, transposed);
  const at::Tensor bias_ = bias.has_value() ? bias->contiguous() : at::Tensor();
  const float* b = bias.has_value() ? bias_.const_data_ptr<float>() : nullptr;
  at::Tensor y = at::empty({x.size(0), d.out_channels * g.groups, size[0], size[1]}, x.options());
  prefer_huge_pages(y);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const int64_t in_size = d.in_channels * d.h * d.w, out_size = d.out_channels * d.height * d.width;
  at::parallel_for(0, x.size(0) * g.groups * d.tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> source(d.source_size()), sums(d.sums_size());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / d.tiles, group = image % g.groups;
      run(d, from + image * in_size, b == nullptr ? b : b + group * d.out_channels, group, item % d.tiles * d.tile,
          source.data(), sums.data(), to + image * out_size);
    }
  });
  return y;
}

}  // namespace gk::conv
