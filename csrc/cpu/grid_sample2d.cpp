// grid_sample2d on the CPU. A piece is some positions of an image, or some channels of it where the gradients of
// positions meet in a pixel, so that no result depends on the number of threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "grid_sample2d_op.h"

namespace gk::sampling {

struct SampleWork {
  int height, width, out_height, out_width, order;
  int64_t channels;
  bool last, affine;
  SampleSettings settings;
};

}  // namespace gk::sampling

#define GK_ISA_SPACE gk::sampling
#define GK_ISA_FILE "cpu/grid_sample2d_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;
using sampling::SampleWork;

SampleWork work_of(const SampleCall& c) {
  return {int(c.height), int(c.width), int(c.out_height), int(c.out_width), c.order,
          c.channels,    c.last,       c.affine,          c.settings};
}

// f(sample, first position, end) for pieces of fixed size.
template <class F>
void each_piece(const SampleCall& c, F f) {
  const int64_t length = std::max<int64_t>(256, 32768 / std::max<int64_t>(c.channels, 1));
  const int64_t pieces = (c.out_pixels() + length - 1) / length;
  at::parallel_for(0, c.n * pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t begin = unit % pieces * length;
      f(unit / pieces, begin, std::min(begin + length, c.out_pixels()));
    }
  });
}

#define GK_SAMPLE_DISPATCH(image, grid, ...)                                                            \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, image.scalar_type(), "grid_sample2d", [&] { \
    using acc_t = at::opmath_type<scalar_t>;                                                            \
    if (grid.scalar_type() == image.scalar_type()) {                                                    \
      using grid_t = scalar_t;                                                                          \
      __VA_ARGS__();                                                                                    \
    } else {                                                                                            \
      using grid_t = acc_t;                                                                             \
      __VA_ARGS__();                                                                                    \
    }                                                                                                   \
  })

template <class acc_t>
const acc_t* along_of(const SampleCall& c, int64_t sample) {
  if (c.order == 0) return nullptr;
  return c.along.const_data_ptr<acc_t>() + sample * c.out_pixels() * c.along.size(3);
}

int64_t grid_step(const SampleCall& c) { return c.affine ? 6 : 2 * c.out_pixels(); }

Tensor grid_sample2d_cpu(const Tensor& x_, const Tensor& grid, const std::optional<Tensor>& along, at::IntArrayRef size,
                         int64_t mode, int64_t padding, bool align) {
  TORCH_CHECK_VALUE(x_.dim() == 4, "grid_sample2d: x has shape ", x_.sizes(), ", expected [N, C, H, W]");
  const SampleCall c(x_, grid, along, x_.sizes().slice(2), size, mode, padding, align);
  const Tensor x = x_.contiguous(c.format), y = c.empty_y(x);
  if (y.numel() == 0) return y;
  const SampleWork work = work_of(c);
  GK_SAMPLE_DISPATCH(x, c.grid, [&] {
    const auto* px = x.const_data_ptr<scalar_t>();
    const auto* pg = c.grid.template const_data_ptr<grid_t>();
    auto* py = y.mutable_data_ptr<scalar_t>();
    each_piece(c, [&](int64_t n, int64_t begin, int64_t end) {
      GK_ISA_CALL(sampling, sample_piece, work, px + n * c.channels * c.pixels(), pg + n * grid_step(c),
                  along_of<acc_t>(c, n), py + n * c.channels * c.out_pixels(), begin, end);
    });
  });
  return y;
}

Tensor grid_sample2d_adjoint_cpu(const Tensor& gy_, const Tensor& grid, const std::optional<Tensor>& along,
                                 at::IntArrayRef size, int64_t mode, int64_t padding, bool align) {
  TORCH_CHECK_VALUE(gy_.dim() == 4, "grid_sample2d: gy has shape ", gy_.sizes(), ", expected [N, C, OH, OW]");
  const SampleCall c(gy_, grid, along, size, gy_.sizes().slice(2), mode, padding, align);
  const Tensor gy = gy_.contiguous(c.format), gx = c.empty_x(gy_.to(c.acc)).zero_();
  if (gy.numel() == 0 || gx.numel() == 0) return gx.to(gy_.scalar_type());
  const SampleWork work = work_of(c);
  const int64_t groups = std::min<int64_t>(c.channels, std::max<int64_t>(1, at::get_num_threads() / c.n));
  GK_SAMPLE_DISPATCH(gy, c.grid, [&] {
    const auto* pgy = gy.const_data_ptr<scalar_t>();
    const auto* pg = c.grid.template const_data_ptr<grid_t>();
    auto* out = gx.mutable_data_ptr<acc_t>();
    at::parallel_for(0, c.n * groups, 1, [&](int64_t first, int64_t last) {
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t n = unit / groups, group = unit % groups;
        GK_ISA_CALL(sampling, adjoint_piece, work, pgy + n * c.channels * c.out_pixels(), pg + n * grid_step(c),
                    along_of<acc_t>(c, n), out + n * c.channels * c.pixels(), group * c.channels / groups,
                    (group + 1) * c.channels / groups);
      }
    });
  });
  return gx.to(gy_.scalar_type());
}

Tensor grid_sample2d_products_cpu(const Tensor& gy_, const Tensor& x_, const Tensor& grid, bool mixed, int64_t mode,
                                  int64_t padding, bool align) {
  TORCH_CHECK_VALUE(gy_.dim() == 4 && x_.dim() == 4, "grid_sample2d: gy has shape ", gy_.sizes(), " and x ", x_.sizes(),
                    ", expected 4 dimensions");
  const SampleCall c(x_, grid, {}, x_.sizes().slice(2), gy_.sizes().slice(2), mode, padding, align);
  const Tensor x = c.as_x(x_, x_), gy = c.as_y(gy_, x_);
  const Tensor out = at::empty({c.n, c.out_height, c.out_width, mixed ? 1 : 2}, x.options().dtype(c.acc));
  SampleWork work = work_of(c);
  work.order = mixed ? 2 : 1;
  if (c.n * c.out_pixels() == 0) return out;
  GK_SAMPLE_DISPATCH(x, c.grid, [&] {
    const auto *px = x.const_data_ptr<scalar_t>(), *pgy = gy.const_data_ptr<scalar_t>();
    const auto* pg = c.grid.template const_data_ptr<grid_t>();
    auto* po = out.mutable_data_ptr<acc_t>();
    each_piece(c, [&](int64_t n, int64_t begin, int64_t end) {
      GK_ISA_CALL(sampling, products_piece, work, pgy + n * c.channels * c.out_pixels(),
                  px + n * c.channels * c.pixels(), pg + n * grid_step(c), po + n * c.out_pixels() * (mixed ? 1 : 2),
                  begin, end);
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("grid_sample2d", &grid_sample2d_cpu);
  m.impl("grid_sample2d_adjoint", &grid_sample2d_adjoint_cpu);
  m.impl("grid_sample2d_products", &grid_sample2d_products_cpu);
}

}  // namespace gk
