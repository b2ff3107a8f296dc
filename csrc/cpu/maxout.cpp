// maxout on the CPU: one pass for the value, and for the derivatives, which move numbers as bits.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "maxout_op.h"

#define GK_ISA_SPACE gk::maxout
#define GK_ISA_FILE "cpu/maxout_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

// f(begin, end) over the rows, on all threads.
template <class F>
void each_rows(const MaxoutShape& s, F f) {
  if (s.results() == 0) return;
  at::parallel_for(0, s.rows, std::max<int64_t>(1, kGrain / (s.pieces * s.inner)), f);
}

// f(a null pointer of the type of the index).
template <class F>
void with_index_type(const MaxoutShape& s, F f) {
  if (s.wide_index())
    f(static_cast<int32_t*>(nullptr));
  else
    f(static_cast<uint8_t*>(nullptr));
}

std::tuple<Tensor, Tensor> maxout_cpu(const Tensor& x, int64_t pieces, int64_t dim, bool with_index) {
  const MaxoutShape s(x, pieces, dim, true);
  const Tensor xc = x.contiguous(s.format), y = s.empty(s.reduced, x, x.scalar_type()), index = s.index(x, with_index);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "maxout", [&] {
    with_index_type(s, [&](auto* type) {
      using I = std::remove_pointer_t<decltype(type)>;
      const scalar_t* px = xc.const_data_ptr<scalar_t>();
      scalar_t* py = y.mutable_data_ptr<scalar_t>();
      I* pi = with_index ? index.mutable_data_ptr<I>() : nullptr;
      each_rows(s, [&](int64_t begin, int64_t end) {
        GK_ISA_CALL(gk::maxout, value_rows, px, py, pi, begin, end, s.pieces, s.inner);
      });
    });
  });
  return {y, index};
}

template <class F>
void with_bits(const Tensor& t, F f) {
  if (t.element_size() == 2)
    f(uint16_t());
  else if (t.element_size() == 4)
    f(uint32_t());
  else
    f(uint64_t());
}

template <bool kScatter>
Tensor maxout_linear_cpu(const Tensor& t, const Tensor& index, int64_t pieces, int64_t dim) {
  const MaxoutShape s(index, pieces, dim, false);
  const Tensor from = s.checked(t, kScatter ? "g" : "v", kScatter ? s.reduced : s.whole), i = s.checked_index(index);
  const Tensor to = s.empty(kScatter ? s.whole : s.reduced, t, t.scalar_type());
  with_bits(t, [&](auto bits) {
    with_index_type(s, [&](auto* type) {
      using B = decltype(bits);
      using I = std::remove_pointer_t<decltype(type)>;
      const B* in = static_cast<const B*>(from.const_data_ptr());
      B* out = static_cast<B*>(to.mutable_data_ptr());
      const I* which = i.const_data_ptr<I>();
      each_rows(s, [&](int64_t begin, int64_t end) {
        if constexpr (kScatter)
          GK_ISA_CALL(gk::maxout, scatter_rows, in, which, out, begin, end, s.pieces, s.inner);
        else
          GK_ISA_CALL(gk::maxout, gather_rows, in, which, out, begin, end, s.pieces, s.inner);
      });
    });
  });
  return to;
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) {
  m.impl("maxout", &maxout_cpu);
  m.impl("maxout_scatter", &maxout_linear_cpu<true>);
  m.impl("maxout_gather", &maxout_linear_cpu<false>);
}

}  // namespace gk
