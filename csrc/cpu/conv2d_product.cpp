// Convolutions with few pixels and many channels as one matrix product over the whole batch. There the weights are what
// has to be read: a library that blocks them by channel first copies them, and takes the samples one by one.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/conv2d.h"

namespace gk::conv {
namespace {

using at::Tensor;

constexpr int64_t kPixels = 256;          // of the smaller image, all samples together
constexpr int64_t kFew = 64;              // where unit strides pay too
constexpr int64_t kWeights = 256 << 10;   // numbers; below, the library's copies are cheap
constexpr int64_t kColumns = 4096 << 10;  // numbers of the unfolded image

// A row of columns of the unfolded image, from `at`: those from `first` to `last` are samples of the larger image from
// `from` on, `step` apart; the others lie outside.
struct Run {
  int64_t at, first, last, from, step;
};

// The larger image unfolded, [channels * taps, samples * pixels of the smaller one].
struct Unfolding {
  const Sizes& s;
  const Geometry& g;

  int64_t rows() const { return s.large_channels * s.kernel[0] * s.kernel[1]; }
  int64_t columns() const { return s.batch * s.small[0] * s.small[1]; }

  // f(Run) for all, channels in parallel.
  template <class F>
  void each(F f) const {
    const int64_t kh = s.kernel[0], kw = s.kernel[1], h = s.large[0], w = s.large[1];
    const int64_t small_h = s.small[0], small_w = s.small[1], channels = s.large_channels, step = g.stride[1];
    const int64_t all = columns();
    at::parallel_for(0, channels, std::max<int64_t>(1, 32768 / (kh * kw * all)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t ty = 0; ty < kh; ++ty)
          for (int64_t tx = 0; tx < kw; ++tx) {
            const int64_t shift = tx * g.dilation[1] - g.padding[1];  // of the first column
            const int64_t first = shift < 0 ? std::min(small_w, (-shift + step - 1) / step) : 0;
            const int64_t last = w <= shift ? first : std::max(first, std::min(small_w, (w - shift + step - 1) / step));
            int64_t at = ((i * kh + ty) * kw + tx) * all;
            for (int64_t n = 0; n < s.batch; ++n)
              for (int64_t qy = 0; qy < small_h; ++qy, at += small_w) {
                const int64_t y = qy * g.stride[0] + ty * g.dilation[0] - g.padding[0];
                const bool inside = y >= 0 && y < h;
                const int64_t from = ((n * channels + i) * h + y) * w + first * step + shift;
                f(Run{at, inside ? first : small_w, inside ? last : small_w, from, step});
              }
          }
    });
  }
};

Tensor unfold(const Tensor& large, const Unfolding& u) {
  const Tensor x = large.contiguous(), out = at::empty({u.rows(), u.columns()}, x.options());
  const int64_t width = u.s.small[1];
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "conv2d", [&] {
    const scalar_t* image = x.const_data_ptr<scalar_t>();
    scalar_t* unfolded = out.mutable_data_ptr<scalar_t>();
    u.each([&](const Run& r) {
      scalar_t* to = unfolded + r.at;
      const scalar_t* from = image + r.from;
      for (int64_t q = 0; q < r.first; ++q) to[q] = 0;
      if (r.step == 1)
        for (int64_t q = r.first; q < r.last; ++q) to[q] = from[q - r.first];
      else
        for (int64_t q = r.first; q < r.last; ++q) to[q] = from[(q - r.first) * r.step];
      for (int64_t q = r.last; q < width; ++q) to[q] = 0;
    });
  });
  return out;
}

// The adjoint: what several columns read, they are summed into, in one order.
Tensor fold(const Tensor& columns, const Unfolding& u) {
  const Tensor out = at::zeros({u.s.batch, u.s.large_channels, u.s.large[0], u.s.large[1]}, columns.options());
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "conv_transpose2d", [&] {
    const scalar_t* unfolded = columns.const_data_ptr<scalar_t>();
    scalar_t* image = out.mutable_data_ptr<scalar_t>();
    u.each([&](const Run& r) {
      const scalar_t* from = unfolded + r.at;
      scalar_t* to = image + r.from;
      for (int64_t q = r.first; q < r.last; ++q) to[(q - r.first) * r.step] += from[q];
    });
  });
  return out;
}

// [C, N * pixels] of [N, C, h, w].
Tensor channels_first(const Tensor& t) { return t.transpose(0, 1).reshape({t.size(1), -1}); }

Tensor as_matrix(const Tensor& weight) { return weight.contiguous().view({weight.size(0), -1}); }

}  // namespace

bool product_pays(const Sizes& s, const Geometry& g, const Tensor& like, Result wanted, at::MemoryFormat format) {
  const bool float_or_double = like.scalar_type() == at::kFloat || like.scalar_type() == at::kDouble;
  if (g.groups != 1 || format != at::MemoryFormat::Contiguous || !float_or_double) return false;
  const Unfolding u{s, g};
  // Measured on AVX2 and AVX-512. A 1x1 kernel is a product in the library too.
  const bool strided = g.stride != Pair{1, 1};
  const int64_t most = strided || wanted == Result::weight ? kPixels : wanted == Result::small ? kFew : 0;
  return s.kernel != Pair{1, 1} && u.columns() <= most && u.rows() * s.small_channels >= kWeights &&
         u.rows() * u.columns() <= kColumns;
}

Tensor product_small(const Tensor& large, const Tensor& weight, const Sizes& s, const Geometry& g) {
  const Tensor y = at::mm(as_matrix(weight), unfold(large, {s, g}));
  return y.view({s.small_channels, s.batch, s.small[0], s.small[1]}).transpose(0, 1).contiguous();
}

Tensor product_large(const Tensor& small, const Tensor& weight, const Sizes& s, const Geometry& g) {
  return fold(at::mm(as_matrix(weight).t(), channels_first(small)), {s, g});
}

Tensor product_weight(const Tensor& small, const Tensor& large, const Sizes& s, const Geometry& g) {
  return at::mm(channels_first(small), unfold(large, {s, g}).t())
      .view({s.small_channels, s.large_channels, s.kernel[0], s.kernel[1]});
}

}  // namespace gk::conv
