// Schema and autograd of minibatch_stddev: forward, backward and double backward each an operator of its own.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace gk {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Wanted = std::array<bool, 2>;
using Pair = std::tuple<Tensor, Tensor>;

Tensor call_value(const Tensor& x, int64_t group_size, int64_t channels) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::minibatch_stddev", "")
                             .typed<Tensor(const Tensor&, int64_t, int64_t)>();
  return op.call(x, group_size, channels);
}

Tensor call_backward(const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::minibatch_stddev_backward", "")
                             .typed<Tensor(const Tensor&, const Tensor&, int64_t, int64_t)>();
  return op.call(gy, x, group_size, channels);
}

Pair call_second(const Tensor& v, const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels,
                 Wanted wanted) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("gankernels_native::minibatch_stddev_double_backward", "")
                             .typed<Pair(const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, Wanted)>();
  return op.call(v, gy, x, group_size, channels, wanted);
}

void keep(AutogradContext* ctx, int64_t group_size, int64_t channels) {
  ctx->saved_data["group_size"] = group_size;
  ctx->saved_data["channels"] = channels;
  ctx->set_materialize_grads(false);
}
int64_t kept(AutogradContext* ctx, const char* name) { return ctx->saved_data[name].toInt(); }

struct ValueFunction : torch::autograd::Function<ValueFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t group_size, int64_t channels) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep(ctx, group_size, channels);
    ctx->save_for_backward({x});
    return call_value(x, group_size, channels);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined() || !ctx->needs_input_grad(0)) return variable_list(3);
    const auto saved = ctx->get_saved_variables();
    return {call_backward(grads[0], saved[0], kept(ctx, "group_size"), kept(ctx, "channels")), Tensor(), Tensor()};
  }
};

struct BackwardFunction : torch::autograd::Function<BackwardFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels) {
    at::AutoDispatchBelowADInplaceOrView below;
    keep(ctx, group_size, channels);
    ctx->save_for_backward({gy, x});
    return call_backward(gy, x, group_size, channels);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Wanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    if (!grads[0].defined() || !(wanted[0] || wanted[1])) return variable_list(4);
    const auto saved = ctx->get_saved_variables();
    auto [ggy, gx] = call_second(grads[0], saved[0], saved[1], kept(ctx, "group_size"), kept(ctx, "channels"), wanted);
    return {wanted[0] ? ggy : Tensor(), wanted[1] ? gx : Tensor(), Tensor(), Tensor()};
  }
};

struct SecondFunction : torch::autograd::Function<SecondFunction> {
  static variable_list forward(AutogradContext*, const Tensor& v, const Tensor& gy, const Tensor& x, int64_t group_size,
                               int64_t channels, Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [ggy, gx] = call_second(v, gy, x, group_size, channels, wanted);
    return {ggy, gx};
  }

  static variable_list backward(AutogradContext*, variable_list) {
    TORCH_CHECK(false,
                "minibatch_stddev: the derivative of order 3 is not supported by the compiled backends; use "
                "gankernels.backend('reference')");
  }
};

Tensor value_autograd(const Tensor& x, int64_t group_size, int64_t channels) {
  return ValueFunction::apply(x, group_size, channels);
}
Tensor backward_autograd(const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels) {
  return BackwardFunction::apply(gy, x, group_size, channels);
}
Pair second_autograd(const Tensor& v, const Tensor& gy, const Tensor& x, int64_t group_size, int64_t channels,
                     Wanted wanted) {
  const auto out = SecondFunction::apply(v, gy, x, group_size, channels, wanted);
  return {out[0], out[1]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("minibatch_stddev(Tensor x, int group_size, int channels) -> Tensor");
  m.def("minibatch_stddev_backward(Tensor gy, Tensor x, int group_size, int channels) -> Tensor");
  m.def(
      "minibatch_stddev_double_backward(Tensor v, Tensor gy, Tensor x, int group_size, int channels, bool[2] wanted) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("minibatch_stddev", &value_autograd);
  m.impl("minibatch_stddev_backward", &backward_autograd);
  m.impl("minibatch_stddev_double_backward", &second_autograd);
}

}  // namespace gk
