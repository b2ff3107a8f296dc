// Convolutions as one matrix product over patches: for small images of many channels, where the weights are most of
// the work and a library that reorders them into its own blocks spends half of its time on that. The weight, as it
// lies, is a matrix [O, I kh kw]; patches is [I kh kw, N P], a column for each of the P positions of each sample.
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "cpu/conv2d.h"

namespace gk::conv {
namespace {

struct Shape {
  int64_t n, channels, large_h, large_w, small_h, small_w, kh, kw;
  int64_t positions() const { return small_h * small_w; }
  int64_t taps() const { return kh * kw; }
};

// The columns [first, last) of `small` whose tap falls inside a line of `extent` samples.
std::pair<int64_t, int64_t> inside(int64_t extent, int64_t count, int64_t stride, int64_t offset) {
  const int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  const int64_t last = offset >= extent ? 0 : (extent - 1 - offset) / stride + 1;
  return {std::min(first, count), std::clamp(last, std::min(first, count), count)};
}

// Calls f(row of the large image or -1, columns' range, first column of the large image, offset in the row of patches)
// for each line of positions of one channel and tap.
template <class F>
void each_line(const Shape& s, const Geometry& g, int64_t tap, F f) {
  const int64_t down = tap / s.kw * g.dilation[0] - g.padding[0], across = tap % s.kw * g.dilation[1] - g.padding[1];
  const auto [first, last] = inside(s.large_w, s.small_w, g.stride[1], across);
  for (int64_t q = 0; q < s.small_h; ++q) {
    const int64_t row = q * g.stride[0] + down;
    f(row >= 0 && row < s.large_h ? row : -1, first, last, first * g.stride[1] + across, q * s.small_w);
  }
}

at::Tensor patches(const at::Tensor& large, const Geometry& g, const Shape& s) {
  at::Tensor out = at::empty({s.channels * s.taps(), s.n * s.positions()}, large.options());
  const float* from = large.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t plane = s.large_h * s.large_w, width = s.n * s.positions(), step = g.stride[1];
  at::parallel_for(0, s.channels * s.taps(), 1 + 4096 / width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t n = 0; n < s.n; ++n) {
        const float* image = from + (n * s.channels + r / s.taps()) * plane;
        float* row = to + r * width + n * s.positions();
        each_line(s, g, r % s.taps(), [&](int64_t y, int64_t first, int64_t last, int64_t x, int64_t at) {
          float* line = row + at;
          if (y < 0) {
            std::fill_n(line, s.small_w, 0.f);
            return;
          }
          const float* in = image + y * s.large_w + x;
          for (int64_t q = 0; q < first; ++q) line[q] = 0;
          for (int64_t q = first; q < last; ++q) line[q] = in[(q - first) * step];
          for (int64_t q = last; q < s.small_w; ++q) line[q] = 0;
        });
      }
  });
  return out;
}

// Adds the patches back where they came from: the transpose of `patches`. `bias` may be null.
at::Tensor assemble(const at::Tensor& columns, const float* bias, const Geometry& g, const Shape& s) {
  at::Tensor out = at::empty({s.n, s.channels, s.large_h, s.large_w}, columns.options());
  const float* from = columns.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t plane = s.large_h * s.large_w, width = s.n * s.positions(), step = g.stride[1];
  at::parallel_for(0, s.channels, 1 + 4096 / (width * s.taps()), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      for (int64_t n = 0; n < s.n; ++n) {
        float* image = to + (n * s.channels + c) * plane;
        std::fill_n(image, plane, bias == nullptr ? 0.f : bias[c]);
        for (int64_t tap = 0; tap < s.taps(); ++tap) {
          const float* row = from + (c * s.taps() + tap) * width + n * s.positions();
          each_line(s, g, tap, [&](int64_t y, int64_t first, int64_t last, int64_t x, int64_t at) {
            if (y < 0) return;
            const float* line = row + at;
            float* out_line = image + y * s.large_w + x;
            for (int64_t q = first; q < last; ++q) out_line[(q - first) * step] += line[q];
          });
        }
      }
  });
  return out;
}

// [N, C, P] as [C, N P] and back, with a bias for each C.
void swap_outer(const float* from, int64_t a, int64_t b, int64_t length, const float* bias, float* to) {
  at::parallel_for(0, b, 1 + 16384 / (a * length), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      for (int64_t i = 0; i < a; ++i) {
        const float* in = from + (i * b + j) * length;
        float* out = to + (j * a + i) * length;
        if (bias == nullptr) {
          std::memcpy(out, in, length * sizeof(float));
          continue;
        }
        for (int64_t k = 0; k < length; ++k) out[k] = in[k] + bias[i];
      }
  });
}

at::Tensor channels_first(const at::Tensor& small) {
  const int64_t n = small.size(0), c = small.size(1), positions = small.size(2) * small.size(3);
  at::Tensor out = at::empty({c, n * positions}, small.options());
  swap_outer(small.const_data_ptr<float>(), n, c, positions, nullptr, out.mutable_data_ptr<float>());
  return out;
}

const float* values(const std::optional<at::Tensor>& bias, at::Tensor& held) {
  if (!bias.has_value()) return nullptr;
  held = bias->contiguous();
  return held.const_data_ptr<float>();
}

}  // namespace

bool product_pays(const at::Tensor& any, at::IntArrayRef weight, int64_t n, at::IntArrayRef small, const Geometry& g,
                  at::MemoryFormat format) {
  if (any.scalar_type() != at::kFloat || format != at::MemoryFormat::Contiguous || g.groups != 1) return false;
  // Measured: with fewer weights for a position the library's reordering is a small part of its time.
  const int64_t positions = n * small[0] * small[1];
  return weight[2] * weight[3] > 1 && weight[0] >= 64 && weight[1] >= 64 && small[1] <= 8 &&
         c10::multiply_integers(weight) >= 1024 * positions;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                   const Geometry& g, at::IntArrayRef size) {
  const Shape s{x.size(0), x.size(1), x.size(2), x.size(3), size[0], size[1], weight.size(2), weight.size(3)};
  const at::Tensor y = at::mm(weight.contiguous().view({weight.size(0), -1}), patches(x.contiguous(), g, s));
  at::Tensor out = at::empty({s.n, weight.size(0), size[0], size[1]}, x.options()), held;
  swap_outer(y.const_data_ptr<float>(), weight.size(0), s.n, s.positions(), values(bias, held),
             out.mutable_data_ptr<float>());
  return out;
}

at::Tensor product_transpose(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                             const Geometry& g, at::IntArrayRef size) {
  const Shape s{x.size(0), weight.size(1), size[0], size[1], x.size(2), x.size(3), weight.size(2), weight.size(3)};
  const at::Tensor flat = weight.contiguous().view({weight.size(0), -1});
  at::Tensor held;
  return assemble(at::mm(flat.t(), channels_first(x.contiguous())), values(bias, held), g, s);
}

at::Tensor product_weight_grad(const at::Tensor& small, const at::Tensor& large, const Geometry& g,
                               at::IntArrayRef kernel) {
  const Shape s{large.size(0), large.size(1), large.size(2), large.size(3),
                small.size(2), small.size(3), kernel[0],     kernel[1]};
  const at::Tensor columns = patches(large.contiguous(), g, s);
  return at::mm(channels_first(small.contiguous()), columns.t())
      .view({small.size(1), large.size(1), kernel[0], kernel[1]});
}

}  // namespace gk::conv
