// minibatch_stddev on the CPU: one pass over x for the value or a derivative, then the planes.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "minibatch_stddev_op.h"

#define GK_ISA_SPACE gk::stddev
#define GK_ISA_FILE "cpu/minibatch_stddev_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

// f(offset of the part in x, in y, first position, end) -> a number, for pieces of fixed size; returns each lot's sum.
template <class F>
std::vector<double> each_piece(const StddevLayout& l, F f) {
  const int64_t length = std::max<int64_t>(16384 / l.group, 1024), pieces = (l.count + length - 1) / length;
  const int64_t lots = l.lots * l.channels;
  std::vector<double> partial(lots * pieces), sums(lots, 0.0);
  at::parallel_for(0, lots * pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t lot = unit / pieces / l.channels, part = unit / pieces % l.channels;
      const int64_t begin = unit % pieces * length, end = std::min<int64_t>(begin + length, l.count);
      partial[unit] =
          f(lot * l.x_sample + part * l.x_part, lot * l.y_sample + part * l.y_part, unit / pieces, begin, end);
    }
  });
  for (int64_t unit = 0; unit < lots * pieces; ++unit) sums[unit / pieces] += partial[unit];
  return sums;
}

// f(first element of a plane of y, lot) for every sample's planes.
template <class F>
void each_plane(const StddevLayout& l, F f) {
  for (int64_t n = 0; n < l.group * l.lots; ++n)
    for (int64_t part = 0; part < l.channels; ++part)
      f(n * l.y_sample + l.first_plane + part * l.plane_stride, n % l.lots * l.channels + part);
}

template <class T>
void fill_planes(const StddevLayout& l, T* y, const std::vector<double>& sums) {
  each_plane(l, [&](int64_t at, int64_t lot) {
    const T value = static_cast<T>(sums[lot] / double(l.count));
    for (int64_t p = 0; p < l.pixels; ++p) y[at + p * l.pixel_stride] = value;
  });
}

// (sum of gy's planes) / (count group), lot by lot.
template <class T>
std::vector<double> plane_scales(const StddevLayout& l, const T* gy) {
  std::vector<double> scales(l.lots * l.channels, 0.0);
  each_plane(l, [&](int64_t at, int64_t lot) {
    for (int64_t p = 0; p < l.pixels; ++p) scales[lot] += static_cast<double>(gy[at + p * l.pixel_stride]);
  });
  for (double& s : scales) s /= double(l.count) * double(l.group);
  return scales;
}

#define GK_STDDEV_DISPATCH(tensor, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensor.scalar_type(), "minibatch_stddev", __VA_ARGS__)

Tensor minibatch_stddev_cpu(const Tensor& x, int64_t group_size, int64_t channels) {
  const StddevCall call(x, group_size, channels);
  const StddevLayout& l = call.layout;
  Tensor y = call.empty_y();
  if (y.numel() == 0) return y;
  GK_STDDEV_DISPATCH(x, [&] {
    const scalar_t* px = call.x.const_data_ptr<scalar_t>();
    scalar_t* py = y.mutable_data_ptr<scalar_t>();
    const auto sums = each_piece(l, [&](int64_t at, int64_t to, int64_t, int64_t begin, int64_t end) -> double {
      return GK_ISA_CALL(stddev, value_piece, l, px + at, py + to, begin, end);
    });
    fill_planes(l, py, sums);
  });
  return y;
}

Tensor minibatch_stddev_backward_cpu(const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels) {
  const StddevCall call(x, group_size, channels);
  const StddevLayout& l = call.layout;
  const Tensor up = call.other(gy, "gy", true);
  Tensor gx = call.empty_x();
  if (gx.numel() == 0) return gx;
  GK_STDDEV_DISPATCH(x, [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const scalar_t *px = call.x.const_data_ptr<scalar_t>(), *pg = up.const_data_ptr<scalar_t>();
    scalar_t* out = gx.mutable_data_ptr<scalar_t>();
    const auto scales = plane_scales(l, pg);
    each_piece(l, [&](int64_t at, int64_t from, int64_t lot, int64_t begin, int64_t end) {
      GK_ISA_CALL(stddev, backward_piece, l, pg + from, px + at, out + at, acc_t(scales[lot]), begin, end);
      return 0.0;
    });
  });
  return gx;
}

std::tuple<Tensor, Tensor> minibatch_stddev_double_backward_cpu(const Tensor& v, const Tensor& gy, const Tensor& x,
                                                                int64_t group_size, int64_t channels,
                                                                std::array<bool, 2> wanted) {
  const StddevCall call(x, group_size, channels);
  const StddevLayout& l = call.layout;
  const Tensor up = call.other(gy, "gy", true), vc = call.other(v, "v", false);
  Tensor ggy = call.empty_y(wanted[0]), gx = call.empty_x(wanted[1]);
  if (call.x.numel() == 0) return {ggy, gx};
  GK_STDDEV_DISPATCH(x, [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const scalar_t *px = call.x.const_data_ptr<scalar_t>(), *pv = vc.const_data_ptr<scalar_t>();
    scalar_t* py = wanted[0] ? ggy.mutable_data_ptr<scalar_t>() : nullptr;
    scalar_t* out = wanted[1] ? gx.mutable_data_ptr<scalar_t>() : nullptr;
    const auto scales = plane_scales(l, up.const_data_ptr<scalar_t>());
    const auto sums = each_piece(l, [&](int64_t at, int64_t to, int64_t lot, int64_t begin, int64_t end) -> double {
      return GK_ISA_CALL(stddev, second_piece, l, pv + at, px + at, py ? py + to : nullptr, out ? out + at : nullptr,
                         acc_t(scales[lot]), begin, end);
    });
    if (wanted[0]) fill_planes(l, py, sums);
  });
  return {ggy, gx};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("minibatch_stddev", &minibatch_stddev_cpu);
  m.impl("minibatch_stddev_backward", &minibatch_stddev_backward_cpu);
  m.impl("minibatch_stddev_double_backward", &minibatch_stddev_double_backward_cpu);
}

}  // namespace gk
