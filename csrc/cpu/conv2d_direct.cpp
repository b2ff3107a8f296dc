// A direct convolution for the shapes at which blocked-by-channel libraries are slow: few output channels, and strided
// transposed convolutions of large images, which run here phase by phase, so that no zero is multiplied.
//
// Work is cut into tiles of rows of one sample. A tile's source rows are copied once into a padded scratch, split by
// the stride (a strided convolution) so that every tap reads consecutive samples; a transposed convolution splits its
// output by the stride instead. Rows are then taken end to end as one long row: the columns between them are computed
// and dropped.
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "cpu/conv2d.h"

#define GK_ISA_SPACE gk::conv::loops
#define GK_ISA_FILE "cpu/conv2d_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::conv {
namespace {

constexpr int64_t kBlock = 6;           // output channels of one pass, as conv_rows takes
constexpr int64_t kSlack = 8 * 16;      // floats beyond the end that a pass may read and write
constexpr int64_t kScratch = 96 << 10;  // floats: what stays in a core's second-level cache beside the weights

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && a < 0); }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One axis. Output sample q * out_phases + phase sums source samples q * in_phases + shift over the taps of that phase.
struct Axis {
  struct Tap {
    int64_t index, phase, start;  // of the filter; of the source; of the source's row, from the first that is read
  };
  int64_t in_phases, out_phases, quotas, first, span;
  std::vector<std::vector<Tap>> taps;  // [out phase]

  Axis(int64_t stride, int64_t padding, int64_t dilation, int64_t kernel, int64_t out, bool transposed)
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
};

// Weights of one output phase in the order of the pass: [group][block][channel][tap][kBlock or the rest].
struct Packed {
  std::vector<float> weight;
  std::vector<std::array<const Axis::Tap*, 2>> taps;
};

Packed pack(const at::Tensor& weight, const Axis& rows, const Axis& cols, int64_t py, int64_t px, int64_t groups,
            int64_t in_channels, int64_t out_channels, bool transposed) {
  Packed p;
  for (const auto& a : rows.taps[py])
    for (const auto& b : cols.taps[px]) p.taps.push_back({&a, &b});
  p.weight.resize(groups * out_channels * in_channels * p.taps.size());
  const float* w = weight.const_data_ptr<float>();
  const int64_t kw = weight.size(3), area = weight.size(2) * kw;
  // [o, i] of group k in the caller's weight: the transposed one has its source channels first.
  const int64_t step_o = transposed ? area : in_channels * area, step_i = transposed ? out_channels * area : area;
  float* to = p.weight.data();
  for (int64_t k = 0; k < groups; ++k)
    for (int64_t o = 0; o < out_channels; o += kBlock)
      for (int64_t i = 0; i < in_channels; ++i)
        for (const auto& [a, b] : p.taps)
          for (int64_t j = o; j < std::min(o + kBlock, out_channels); ++j)
            *to++ = w[k * in_channels * out_channels * area + j * step_o + i * step_i + a->index * kw + b->index];
  return p;
}

}  // namespace

bool direct_pays(const at::Tensor& x, const at::Tensor& weight, const Geometry& g, at::IntArrayRef size,
                 bool transposed, at::MemoryFormat format) {
  return x.scalar_type() == at::kFloat && format == at::MemoryFormat::Contiguous;
}

at::Tensor direct(const at::Tensor& x, const at::Tensor& weight_, const std::optional<at::Tensor>& bias,
                  const Geometry& g, at::IntArrayRef size, bool transposed) {
  const at::Tensor weight = weight_.contiguous();
  const at::Tensor bias_ = bias.has_value() ? bias->contiguous() : at::Tensor();
  const float* b = bias.has_value() ? bias_.const_data_ptr<float>() : nullptr;
  const int64_t n = x.size(0), h = x.size(2), w = x.size(3);
  const int64_t in_channels = x.size(1) / g.groups;
  const int64_t out_channels = transposed ? weight.size(1) : weight.size(0) / g.groups;
  const int64_t channels = out_channels * g.groups;
  const Axis rows(g.stride[0], g.padding[0], g.dilation[0], weight.size(2), size[0], transposed);
  const Axis cols(g.stride[1], g.padding[1], g.dilation[1], weight.size(3), size[1], transposed);
  std::vector<Packed> phases;
  for (int64_t py = 0; py < rows.out_phases; ++py)
    for (int64_t px = 0; px < cols.out_phases; ++px)
      phases.push_back(pack(weight, rows, cols, py, px, g.groups, in_channels, out_channels, transposed));

  const int64_t pitch = cols.quotas + cols.span;  // of a scratch row
  const int64_t row_cost = in_channels * rows.in_phases * cols.in_phases * pitch;
  int64_t tile = std::clamp<int64_t>(kScratch / row_cost - rows.span, 1, rows.quotas);
  // Enough tiles for all threads, evenly filled; tiles do not change the sums.
  const int64_t wanted = ceil_div(4 * at::get_num_threads(), n * g.groups);
  tile = std::min(tile, ceil_div(rows.quotas, wanted));
  const int64_t tiles = ceil_div(rows.quotas, tile);
  tile = ceil_div(rows.quotas, tiles);

  at::Tensor y = at::empty({n, channels, size[0], size[1]}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, n * g.groups * tiles, 1, [&](int64_t begin, int64_t end) {
    const int64_t lines = tile + rows.span;  // source rows of a tile and phase
    const int64_t phase_size = lines * pitch, plane = rows.in_phases * cols.in_phases * phase_size;
    const int64_t out_pitch = tile * pitch + kSlack;
    std::vector<float> source(in_channels * plane + pitch + kSlack), sums(cols.out_phases * kBlock * out_pitch);
    std::vector<long> offsets;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sample = item / (g.groups * tiles), group = item / tiles % g.groups, q0 = item % tiles * tile;
      const int64_t count = std::min(tile, rows.quotas - q0);
      for (int64_t c = 0; c < in_channels; ++c)
        for (int64_t fy = 0; fy < rows.in_phases; ++fy)
          for (int64_t fx = 0; fx < cols.in_phases; ++fx) {
            float* part = source.data() + c * plane + (fy * cols.in_phases + fx) * phase_size;
            const int64_t left = std::clamp<int64_t>(ceil_div(-fx, cols.in_phases) - cols.first, 0, pitch);
            const int64_t right = std::clamp<int64_t>(ceil_div(w - fx, cols.in_phases) - cols.first, left, pitch);
            for (int64_t r = 0; r < count + rows.span; ++r) {
              float* line = part + r * pitch;
              const int64_t row = (q0 + r + rows.first) * rows.in_phases + fy;
              const bool inside = row >= 0 && row < h;
              std::fill(line, line + (inside ? left : pitch), 0.f);
              if (!inside) continue;
              const float* image = from + ((sample * g.groups + group) * in_channels + c) * h * w + row * w;
              GK_ISA_CALL(loops, conv_gather, image + (left + cols.first) * cols.in_phases + fx, right - left,
                          cols.in_phases, line + left);
              std::fill(line + right, line + pitch, 0.f);
            }
          }
      for (int64_t o = 0; o < out_channels; o += kBlock) {
        const int64_t block = std::min(kBlock, out_channels - o);
        for (int64_t py = 0; py < rows.out_phases; ++py) {
          for (int64_t px = 0; px < cols.out_phases; ++px) {
            const Packed& p = phases[py * cols.out_phases + px];
            const int64_t taps = p.taps.size();
            offsets.clear();
            for (const auto& [a, c] : p.taps)
              offsets.push_back((a->phase * cols.in_phases + c->phase) * phase_size + a->start * pitch + c->start);
            GK_ISA_CALL(loops, conv_rows, block, source.data(),
                        p.weight.data() + (group * out_channels + o) * in_channels * taps, offsets.data(), in_channels,
                        taps, plane, count * pitch, sums.data() + px * kBlock * out_pitch, out_pitch);
          }
          for (int64_t j = 0; j < block; ++j) {
            const int64_t channel = group * out_channels + o + j;
            const float add = b == nullptr ? 0.f : b[channel];
            for (int64_t r = 0; r < count && (q0 + r) * rows.out_phases + py < size[0]; ++r) {
              float* line = to + ((sample * channels + channel) * size[0] + (q0 + r) * rows.out_phases + py) * size[1];
              const float* sum = sums.data() + j * out_pitch + r * pitch;
              if (cols.out_phases == 2) {
                const int64_t pairs = size[1] / 2;
                GK_ISA_CALL(loops, conv_weave, sum, sum + kBlock * out_pitch, add, pairs, line);
                if (size[1] % 2 != 0) line[size[1] - 1] = sum[pairs] + add;
                continue;
              }
              for (int64_t px = 0; px < cols.out_phases; ++px)
                GK_ISA_CALL(loops, conv_store, sum + px * kBlock * out_pitch, add,
                            ceil_div(size[1] - px, cols.out_phases), cols.out_phases, line + px);
            }
          }
        }
      }
    }
  });
  return y;
}

}  // namespace gk::conv
