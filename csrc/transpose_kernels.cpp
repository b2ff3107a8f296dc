// transpose_kernels: [O, I, kh, kw] to a contiguous [I, O, kh, kw], the form that a transposed convolution takes.
//
// A strided view would be copied by every convolution that reads it, and slowly: runs of nine numbers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "autograd.h"
#include "cpu/huge_pages.h"

namespace gk {
namespace {

using at::Tensor;

constexpr int64_t kBlock = 32;  // kernels each way: rows of both sides that stay in a core's first-level cache

// kBytes of a kernel, 0 for `any`.
template <int64_t kBytes>
void swap_block(const char* from, char* to, int64_t rows, int64_t columns, int64_t i0, int64_t i1, int64_t any) {
  const int64_t bytes = kBytes ? kBytes : any;
  for (int64_t o0 = 0; o0 < rows; o0 += kBlock) {
    const int64_t o1 = std::min(rows, o0 + kBlock);
    for (int64_t i = i0; i < i1; ++i)
      for (int64_t o = o0; o < o1; ++o)
        std::memcpy(to + (i * rows + o) * bytes, from + (o * columns + i) * bytes, bytes);
  }
}

Tensor transpose_kernels_cpu(const Tensor& weight) {
  TORCH_CHECK_VALUE(weight.dim() == 4, "transpose_kernels: weight has shape ", weight.sizes(),
                    ", expected [O, I, kh, kw]");
  const Tensor w = weight.contiguous();
  const int64_t rows = w.size(0), columns = w.size(1), bytes = w.size(2) * w.size(3) * w.element_size();
  const Tensor out = at::empty({columns, rows, w.size(2), w.size(3)}, w.options());
  if (w.numel() == 0) return out;
  prefer_huge_pages(out);
  const char* from = static_cast<const char*>(w.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t blocks = (columns + kBlock - 1) / kBlock;
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, kBlock * rows * bytes));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t i0 = b * kBlock, i1 = std::min(columns, i0 + kBlock);
      (bytes == 36 ? swap_block<36> : swap_block<0>)(from, to, rows, columns, i0, i1, bytes);
    }
  });
  return out;
}

Tensor call(const Tensor& weight) {
  static const auto op = find<Tensor(const Tensor&)>("gankernels_native::transpose_kernels");
  return op.call(weight);
}

struct TransposeKernels : torch::autograd::Function<TransposeKernels> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& weight) {
    at::AutoDispatchBelowADInplaceOrView below;
    return call(weight);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list grads) {
    return {call(grads[0])};
  }
};

Tensor transpose_kernels(const Tensor& weight) { return TransposeKernels::apply(weight); }

}  // namespace
}  // namespace gk

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) { m.def("transpose_kernels(Tensor weight) -> Tensor"); }
TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("transpose_kernels", &gk::transpose_kernels_cpu); }
TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) { m.impl("transpose_kernels", &gk::transpose_kernels); }
