// What the CPU and CUDA sides of pixel_shuffle_act share: the sizes of a call, and its checks.
#pragma once
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "bias_act_op.h"

namespace gk::shuffle {

using at::Tensor;
using Opt = std::optional<Tensor>;

// x is [N, C r r, H, W], y [N, C, H r, W r], both in one layout. Position (n, h, w) and channel (c r + i) r + j of x
// are n n_step + h h_step + w w_step + c c_step + i i_step + j j_step of y.
struct Shape {
  int64_t n, c, h, w, r;
  at::MemoryFormat format;
  at::TensorOptions options;

  // `like` is x, or y where `shuffled`.
  Shape(const Tensor& like, int64_t r, bool shuffled) : r(r), format(like.suggest_memory_format()) {
    TORCH_CHECK_VALUE(like.dim() == 4 && r >= 1, "pixel_shuffle_act: got a tensor ", like.sizes(),
                      " and upscale_factor ", r, ", expected 4 dimensions and 1 or more");
    const int64_t channels = like.size(1), rows = like.size(2), columns = like.size(3);
    const bool fits = shuffled ? rows % r == 0 && columns % r == 0 : channels % (r * r) == 0;
    TORCH_CHECK_VALUE(fits, "pixel_shuffle_act: got a tensor ", like.sizes(), ", which upscale_factor ", r,
                      " does not divide");
    n = like.size(0);
    c = shuffled ? channels : channels / (r * r);
    h = shuffled ? rows / r : rows;
    w = shuffled ? columns / r : columns;
    options = like.options();
  }
  bool last() const { return format == at::MemoryFormat::ChannelsLast; }
  int64_t channels() const { return c * r * r; }
  int64_t numel() const { return n * channels() * h * w; }
  int64_t c_step() const { return last() ? 1 : h * r * w * r; }
  int64_t j_step() const { return last() ? c : 1; }
  int64_t i_step() const { return j_step() * w * r; }
  int64_t w_step() const { return j_step() * r; }
  int64_t h_step() const { return i_step() * r; }
  int64_t n_step() const { return channels() * h * w; }

  std::array<int64_t, 4> sizes(bool shuffled) const {
    if (shuffled) return {n, c, h * r, w * r};
    return {n, channels(), h, w};
  }
  Tensor fresh(bool shuffled, bool wanted = true) const {
    return wanted ? at::empty(sizes(shuffled), options, format) : at::empty({0}, options);
  }
  Tensor image(const Opt& t, const char* name, bool shuffled) const {
    if (!t.has_value()) return {};
    const auto expected = sizes(shuffled);
    TORCH_CHECK_VALUE(t->sizes() == at::IntArrayRef(expected) && t->scalar_type() == options.dtype(),
                      "pixel_shuffle_act: ", name, " is ", t->scalar_type(), " ", t->sizes(), ", expected ",
                      options.dtype(), " ", at::IntArrayRef(expected));
    return t->contiguous(format);
  }
  Tensor numbers(const Opt& t, const char* name) const {
    if (!t.has_value()) return {};
    TORCH_CHECK_VALUE(t->dim() == 1 && t->size(0) == channels() && t->scalar_type() == options.dtype(),
                      "pixel_shuffle_act: ", name, " is ", t->scalar_type(), " ", t->sizes(), ", expected ",
                      options.dtype(), " [", channels(), "]");
    return t->contiguous();
  }
};

// Whether a call needs nothing of the forward to be differentiated.
inline bool is_bare(Act act, double clamp) { return act == Act::linear && clamp < 0; }

// The shape of a derivative's call, by what tells the layout of x.
inline Shape shape_of(const Tensor& g, const Opt& ref, bool ref_is_output, int64_t r, c10::string_view act,
                      double clamp) {
  TORCH_CHECK(ref.has_value() || is_bare(parse_act(act), clamp), "pixel_shuffle_act: ref is needed for act ", act);
  return ref.has_value() ? Shape(*ref, r, ref_is_output) : Shape(g, r, true);
}

// What a pass reads; undefined for what there is not.
struct Given {
  Tensor ref, g, v, bias, v_bias;
  bool ref_is_output;
  Act act;
  double alpha, gain, clamp;
};

// A device's pass of an order: results that are not wanted are undefined; returns the sums over each channel of `out`.
using Run = Tensor (*)(const Shape& s, const Given& t, int order, const Tensor& out, const Tensor& out_g,
                       bool want_sums);

// The operators of a device.
template <Run run>
struct Operators {
  static Tensor value(const Tensor& x, const Opt& bias, int64_t r, c10::string_view act, double alpha, double gain,
                      double clamp) {
    const Shape s(x, r, false);
    const Tensor y = s.fresh(true);
    run(s, {s.image(x, "x", false), {}, {}, s.numbers(bias, "bias"), {}, false, parse_act(act), alpha, gain, clamp}, 0,
        y, {}, false);
    return y;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& g, const Opt& ref, const Opt& bias, bool ref_is_output,
                                             int64_t r, c10::string_view act, double alpha, double gain, double clamp,
                                             std::array<bool, 2> wanted) {
    const Shape s = shape_of(g, ref, ref_is_output, r, act, clamp);
    const Tensor gx = s.fresh(false, wanted[0]);
    const Given given{s.image(ref, "ref", ref_is_output),
                      s.image(g, "g", true),
                      {},
                      s.numbers(bias, "bias"),
                      {},
                      ref_is_output,
                      parse_act(act),
                      alpha,
                      gain,
                      clamp};
    return {gx, run(s, given, 1, wanted[0] ? gx : Tensor(), {}, wanted[1])};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const Opt& v, const Opt& v_bias, const Tensor& g,
                                                            const Opt& ref, const Opt& bias, bool ref_is_output,
                                                            int64_t r, c10::string_view act, double alpha, double gain,
                                                            double clamp, std::array<bool, 3> wanted) {
    const Shape s = shape_of(g, ref, ref_is_output, r, act, clamp);
    TORCH_CHECK(!ref_is_output || !(wanted[1] || wanted[2]), "pixel_shuffle_act: nothing depends on ref, the output");
    const Tensor out_g = s.fresh(true, wanted[0]), out_ref = s.fresh(false, wanted[1]);
    const Given given{s.image(ref, "ref", ref_is_output),
                      s.image(g, "g", true),
                      s.image(v, "v", false),
                      s.numbers(bias, "bias"),
                      s.numbers(v_bias, "v_bias"),
                      ref_is_output,
                      parse_act(act),
                      alpha,
                      gain,
                      clamp};
    Tensor sums = run(s, given, 2, wanted[1] ? out_ref : Tensor(), wanted[0] ? out_g : Tensor(), wanted[2]);
    return {out_g, out_ref, sums};
  }

  static void implement(torch::Library& m) {
    m.impl("pixel_shuffle_act", &value);
    m.impl("pixel_shuffle_act_backward", &backward);
    m.impl("pixel_shuffle_act_double_backward", &double_backward);
  }
};

}  // namespace gk::shuffle
