// What the CPU and CUDA sides of minibatch_stddev check and allocate alike.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "minibatch_stddev.h"

namespace gk {

// Checked arguments, and x as it is read; `group_size` 0 stands for the whole batch.
struct StddevCall {
  at::MemoryFormat format;
  at::Tensor x;
  StddevLayout layout;

  StddevCall(const at::Tensor& given, int64_t group_size, int64_t channels) {
    TORCH_CHECK_VALUE(given.dim() == 4, "minibatch_stddev: x has shape ", given.sizes(), ", expected [N, C, H, W]");
    const int64_t n = given.size(0), c = given.size(1);
    const int64_t group = n == 0 ? 1 : group_size == 0 || group_size > n ? n : group_size;
    TORCH_CHECK_VALUE(group_size >= 0 && n % group == 0, "minibatch_stddev: x has ", n, " samples and group_size is ",
                      group_size, ", expected a multiple of it; pass a divisor of ", n);
    TORCH_CHECK_VALUE(channels > 0 && c > 0 && c % channels == 0, "minibatch_stddev: x has ", c,
                      " channels, expected a multiple of num_channels = ", channels);
    format = given.suggest_memory_format();
    x = given.contiguous(format);
    layout = StddevLayout::of(n, c, given.size(2) * given.size(3), group, channels,
                              format == at::MemoryFormat::ChannelsLast);
  }

  int64_t lots() const { return layout.lots * layout.channels; }
  at::Tensor empty_x(bool wanted = true) const {
    return wanted ? at::empty(x.sizes(), x.options(), format) : at::empty({0}, x.options());
  }
  at::Tensor empty_y(bool wanted = true) const {
    return wanted
               ? at::empty({x.size(0), x.size(1) + int64_t(layout.channels), x.size(2), x.size(3)}, x.options(), format)
               : at::empty({0}, x.options());
  }
  // Another tensor of x's shape or, where `wide`, of y's.
  at::Tensor other(const at::Tensor& t, const char* name, bool wide) const {
    TORCH_CHECK_VALUE(t.scalar_type() == x.scalar_type() && t.device() == x.device(), "minibatch_stddev: ", name,
                      " is ", t.scalar_type(), " on ", t.device(), ", expected ", x.scalar_type(), " on ", x.device());
    auto sizes = x.sizes().vec();
    if (wide) sizes[1] += layout.channels;
    TORCH_CHECK_VALUE(t.sizes() == at::IntArrayRef(sizes), "minibatch_stddev: ", name, " has shape ", t.sizes(),
                      ", expected ", at::IntArrayRef(sizes));
    return t.contiguous(format);
  }
};

}  // namespace gk
