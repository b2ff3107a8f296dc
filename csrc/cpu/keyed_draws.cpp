// keyed_draws: uniform or normal numbers that follow from each sample's key alone.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <utility>

#define GK_ISA_SPACE gk::draws
#define GK_ISA_FILE "cpu/keyed_draws_loops.h"
#include "cpu/foreach_isa.h"

namespace gk {
namespace {

using at::Tensor;

constexpr int64_t kBlock = draws::base::kBlock;
constexpr int64_t kGrain = 32;           // blocks below which a thread does not pay
constexpr int64_t kApart = 0x1000193;    // between the places of two streams
constexpr int64_t kStreams = 1LL << 32;  // keeps the places within 64 bits

Tensor keyed_draws(const Tensor& keys, int64_t count, int64_t stream, at::ScalarType dtype, bool normal) {
  TORCH_CHECK_VALUE(keys.dim() == 1 && keys.scalar_type() == at::kLong, "keyed_draws: keys is ", keys.scalar_type(),
                    " ", keys.sizes(), ", expected int64 [N]");
  TORCH_CHECK_VALUE(count >= 0, "keyed_draws: count is ", count, ", expected 0 or more");
  TORCH_CHECK_VALUE(stream >= 0 && stream < kStreams, "keyed_draws: stream is ", stream,
                    ", expected 0 or more, below 2^32");
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble, "keyed_draws: dtype is ", dtype,
                    ", expected float32 or float64");
  const Tensor k = keys.contiguous();
  const Tensor out = at::empty({k.size(0), count}, k.options().dtype(dtype));
  const int64_t* key = k.const_data_ptr<int64_t>();
  const int64_t blocks = (count + kBlock - 1) / kBlock, base = (stream + 1) * kApart;
  AT_DISPATCH_FLOATING_TYPES(dtype, "keyed_draws", [&] {
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, k.size(0) * blocks, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = unit / blocks, at = unit % blocks * kBlock;
        const uint32_t sample = draws::base::mixed_key(key[row]);
        GK_ISA_CALL(draws, draw_block, sample, base, at, std::min(kBlock, count - at), normal, to + row * count + at);
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace gk

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("keyed_draws(Tensor keys, SymInt count, int stream, ScalarType dtype, bool normal) -> Tensor");
}
TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { m.impl("keyed_draws", &gk::keyed_draws); }
