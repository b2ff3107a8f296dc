// Autograd of an operator of one tensor and two numbers whose value, backward and double backward are a kernel each.
#pragma once
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <tuple>

#include "autograd.h"

namespace gk {

// Op has kName, the operator's name without namespace, and the numbers' types A and B. The native operators are kName
// (x, a, b), kName_backward (g, x, a, b) and kName_double_backward (v, g, x, a, b, wanted of g and x).
template <class Op>
struct SecondOrder {
  using Tensor = at::Tensor;
  using Context = torch::autograd::AutogradContext;
  using Variables = torch::autograd::variable_list;
  using A = typename Op::A;
  using B = typename Op::B;
  using Wanted = std::array<bool, 2>;
  using Pair = std::tuple<Tensor, Tensor>;

  static std::string name(const char* suffix) { return std::string("gankernels_native::") + Op::kName + suffix; }

  static Tensor call_value(const Tensor& x, A a, B b) {
    static const auto op = find<Tensor(const Tensor&, A, B)>(name("").c_str());
    return op.call(x, a, b);
  }
  static Tensor call_backward(const Tensor& g, const Tensor& x, A a, B b) {
    static const auto op = find<Tensor(const Tensor&, const Tensor&, A, B)>(name("_backward").c_str());
    return op.call(g, x, a, b);
  }
  static Pair call_second(const Tensor& v, const Tensor& g, const Tensor& x, A a, B b, Wanted wanted) {
    static const auto op =
        find<Pair(const Tensor&, const Tensor&, const Tensor&, A, B, Wanted)>(name("_double_backward").c_str());
    return op.call(v, g, x, a, b, wanted);
  }

  static void keep(Context* ctx, A a, B b) {
    ctx->saved_data["a"] = a;
    ctx->saved_data["b"] = b;
    ctx->set_materialize_grads(false);
  }
  static A kept_a(Context* ctx) { return ctx->saved_data["a"].template to<A>(); }
  static B kept_b(Context* ctx) { return ctx->saved_data["b"].template to<B>(); }

  struct Value : torch::autograd::Function<Value> {
    static Tensor forward(Context* ctx, const Tensor& x, A a, B b) {
      at::AutoDispatchBelowADInplaceOrView below;
      keep(ctx, a, b);
      ctx->save_for_backward({x});
      return call_value(x, a, b);
    }
    static Variables backward(Context* ctx, Variables grads) {
      if (!grads[0].defined() || !ctx->needs_input_grad(0)) return Variables(3);
      const auto saved = ctx->get_saved_variables();
      return {call_backward(grads[0], saved[0], kept_a(ctx), kept_b(ctx)), Tensor(), Tensor()};
    }
  };

  struct Backward : torch::autograd::Function<Backward> {
    static Tensor forward(Context* ctx, const Tensor& g, const Tensor& x, A a, B b) {
      at::AutoDispatchBelowADInplaceOrView below;
      keep(ctx, a, b);
      ctx->save_for_backward({g, x});
      return call_backward(g, x, a, b);
    }
    static Variables backward(Context* ctx, Variables grads) {
      const Wanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
      if (!grads[0].defined() || !(wanted[0] || wanted[1])) return Variables(4);
      const auto saved = ctx->get_saved_variables();
      auto [gg, gx] = call_second(grads[0], saved[0], saved[1], kept_a(ctx), kept_b(ctx), wanted);
      return {wanted[0] ? gg : Tensor(), wanted[1] ? gx : Tensor(), Tensor(), Tensor()};
    }
  };

  struct Second : torch::autograd::Function<Second> {
    static Variables forward(Context*, const Tensor& v, const Tensor& g, const Tensor& x, A a, B b, Wanted wanted) {
      at::AutoDispatchBelowADInplaceOrView below;
      auto [gg, gx] = call_second(v, g, x, a, b, wanted);
      return {gg, gx};
    }
    static Variables backward(Context*, Variables) {
      TORCH_CHECK(false, Op::kName,
                  ": the derivative of order 3 is not supported by the compiled backends; use "
                  "gankernels.backend('reference')");
    }
  };

  static Tensor value(const Tensor& x, A a, B b) { return Value::apply(x, a, b); }
  static Tensor backward(const Tensor& g, const Tensor& x, A a, B b) { return Backward::apply(g, x, a, b); }
  static Pair second(const Tensor& v, const Tensor& g, const Tensor& x, A a, B b, Wanted wanted) {
    const auto out = Second::apply(v, g, x, a, b, wanted);
    return {out[0], out[1]};
  }

  static void register_autograd(torch::Library& m) {
    const std::string name = Op::kName;
    m.impl(name.c_str(), &value);
    m.impl((name + "_backward").c_str(), &backward);
    m.impl((name + "_double_backward").c_str(), &second);
  }
};

}  // namespace gk
