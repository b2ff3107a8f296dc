// pixel_shuffle_act on the CPU: value, backward and double backward are one pass each, the bias's sums included.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "pixel_shuffle_act_op.h"

namespace gk::shuffle {

// The loops' view of a Shape. A unit is a row of channels [r] of one sample, or, channels last, a share of the pixels.
struct Walk {
  static constexpr int64_t kTile = 1024, kMostUnits = 64;
  int64_t n, c, h, w, r;
  bool last;
  explicit Walk(const Shape& s) : n(s.n), c(s.c), h(s.h), w(s.w), r(s.r), last(s.last()) {}
  int64_t units() const { return last ? std::min(n * h, kMostUnits) : n * c * r; }
  int64_t sums() const { return last ? c * r * r : r; }  // numbers that a unit sums
  // Columns, or channels of y, of a tile.
  int64_t width() const { return std::max<int64_t>(1, kTile / (last ? r * r : r)); }
  int64_t room() const { return width() * (last ? r * r : r); }
};

// Null for what there is not. `order` 0: y = f(x + bias) to out; 1: g f' to out; 2: q f' to out_g, q g f'' to out, with
// q = v + v_bias.
template <class T, class acc_t>
struct Job {
  const T *ref = nullptr, *g = nullptr, *v = nullptr;
  const acc_t *bias = nullptr, *v_bias = nullptr;
  T *out = nullptr, *out_g = nullptr;
  double* sums = nullptr;
  bool ref_is_output = false;
  int order = 0;
  Act act;
  ActParams numbers;
};

}  // namespace gk::shuffle

#define GK_ISA_SPACE gk::shuffle
#define GK_ISA_FILE "cpu/pixel_shuffle_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::shuffle {
namespace {

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

template <class T>
const T* data(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

template <class T, class acc_t>
std::vector<acc_t> widened(const Tensor& t) {
  if (!t.defined()) return {};
  const T* from = t.const_data_ptr<T>();
  return {from, from + t.numel()};
}

// Results that are not wanted are undefined; returns the channels' sums.
Tensor run(const Shape& s, const Given& t, int order, const Tensor& out, const Tensor& out_g, bool want_sums) {
  const Walk walk(s);
  const int64_t units = walk.units();
  std::vector<double> sums(want_sums ? units * walk.sums() : 0, 0.0);
  const Tensor total = at::empty({want_sums ? s.channels() : 0}, s.options);
  const auto type = at::typeMetaToScalarType(s.options.dtype());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, type, "pixel_shuffle_act", [&] {
    using acc_t = at::opmath_type<scalar_t>;
    const auto bias = widened<scalar_t, acc_t>(t.bias), v_bias = widened<scalar_t, acc_t>(t.v_bias);
    Job<scalar_t, acc_t> job;
    job.ref = data<scalar_t>(t.ref);
    job.g = data<scalar_t>(t.g);
    job.v = data<scalar_t>(t.v);
    job.bias = t.bias.defined() ? bias.data() : nullptr;
    job.v_bias = t.v_bias.defined() ? v_bias.data() : nullptr;
    job.out = out.defined() ? out.mutable_data_ptr<scalar_t>() : nullptr;
    job.out_g = out_g.defined() ? out_g.mutable_data_ptr<scalar_t>() : nullptr;
    job.sums = want_sums ? sums.data() : nullptr;
    job.ref_is_output = t.ref_is_output;
    job.order = order;
    job.act = t.act;
    job.numbers = {t.alpha, t.gain, t.clamp < 0 ? INFINITY : t.clamp};
    if (s.numel() > 0) {
      const int64_t a_unit = std::max<int64_t>(1, s.numel() / units);
      at::parallel_for(0, units, std::max<int64_t>(1, kGrain / a_unit), [&](int64_t begin, int64_t end) {
        std::vector<acc_t> room(5 * walk.room());
        for (int64_t unit = begin; unit < end; ++unit) GK_ISA_CALL(gk::shuffle, run_unit, walk, unit, job, room.data());
      });
    }
    if (!want_sums) return;
    // [units, sums] is [samples, channels], or [shares of the pixels, channels].
    scalar_t* to = total.mutable_data_ptr<scalar_t>();
    const int64_t channels = s.channels(), repeats = channels ? int64_t(sums.size()) / channels : 0;
    for (int64_t k = 0; k < channels; ++k) {
      double sum = 0;
      for (int64_t i = 0; i < repeats; ++i) sum += sums[i * channels + k];
      to[k] = sum;
    }
  });
  return total;
}

}  // namespace
}  // namespace gk::shuffle

TORCH_LIBRARY_IMPL(gankernels_native, CPU, m) { gk::shuffle::Operators<&gk::shuffle::run>::implement(m); }
