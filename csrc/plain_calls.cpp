// The short way from Python for the calls that nearly all are: plain CPU tensors, no mode or transform, arguments that
// fit. It costs a tenth of Python's own checks, which run on cold caches between two layers. Anything else gives
// NotImplemented, and the Python function, which knows every rule and every message, starts from the beginning.
#include "plain_calls.h"

#include <ATen/ATen.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <array>
#include <cmath>
#include <optional>

#include "autograd.h"
#include "signatures.h"

namespace {

using at::Tensor;
using gk::Convolution;
using gk::find;
using Pair = std::array<int64_t, 2>;

constexpr int64_t kMostPixels = (int64_t(1) << 31) - 1;  // of an image of a result

bool plain_context() {
  static const c10::DispatchKeySet usual = c10::default_included_set;
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return (included - usual).empty() && !at::impl::torch_function_mode_enabled() &&
         !at::autocast::is_autocast_enabled(at::kCPU);
}

// The tensor behind `o`, if it is a dense CPU one of a dtype that the operators take, without a tangent.
const Tensor* plain_tensor(PyObject* o) {
  static const c10::DispatchKeySet usual({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                          c10::DispatchKey::ADInplaceOrView, c10::DispatchKey::AutocastCPU});
  if (!THPVariable_CheckExact(o)) return nullptr;
  const Tensor& t = THPVariable_Unpack(o);
  const auto dtype = t.scalar_type();
  const bool real = dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
  const bool dual = t._fw_grad(0).defined();  // forward-mode derivatives are refused in Python
  return real && !dual && (t.key_set().raw_repr() & ~usual.raw_repr()) == 0 ? &t : nullptr;
}

bool number(PyObject* o, int64_t least, int64_t& to) {
  if (!PyLong_CheckExact(o)) return false;
  int overflow = 0;
  to = PyLong_AsLongLongAndOverflow(o, &overflow);
  return overflow == 0 && to >= least && to < (int64_t(1) << 31);
}

bool pair(PyObject* o, int64_t least, Pair& to) {
  if (PyTuple_CheckExact(o) && PyTuple_GET_SIZE(o) == 2)
    return number(PyTuple_GET_ITEM(o, 0), least, to[0]) && number(PyTuple_GET_ITEM(o, 1), least, to[1]);
  if (!number(o, least, to[0])) return false;
  to[1] = to[0];
  return true;
}

struct Conv {
  const Tensor *x, *weight;
  std::optional<Tensor> bias;
  Pair stride, padding, dilation, size;
  int64_t groups;

  // Reads what both convolutions have; false where it is not plain.
  bool read(PyObject* x_, PyObject* weight_, PyObject* bias_, PyObject* stride_, PyObject* padding_,
            PyObject* dilation_, PyObject* groups_) {
    if (!plain_context()) return false;
    x = plain_tensor(x_);
    weight = plain_tensor(weight_);
    if (x == nullptr || weight == nullptr || x->scalar_type() != weight->scalar_type()) return false;
    if (x->dim() != 4 || weight->dim() != 4 || weight->numel() == 0) return false;
    if (x->size(1) == 0 || x->size(2) == 0 || x->size(3) == 0) return false;
    if (bias_ != Py_None) {
      const Tensor* b = plain_tensor(bias_);
      if (b == nullptr || b->dim() != 1 || b->scalar_type() != x->scalar_type()) return false;
      bias = *b;
    }
    return pair(stride_, 1, stride) && pair(padding_, 0, padding) && pair(dilation_, 1, dilation) &&
           number(groups_, 1, groups) && weight->size(0) % groups == 0;
  }

  PyObject* run(const c10::TypedOperatorHandle<Convolution>& op) const {
    const std::array<c10::SymInt, 2> symbolic{size[0], size[1]};
    Tensor y;
    {
      pybind11::gil_scoped_release release;
      y = op.call(*x, *weight, bias, stride, padding, dilation, groups, symbolic);
    }
    return THPVariable_Wrap(std::move(y));
  }
};

PyObject* not_plain() { Py_RETURN_NOTIMPLEMENTED; }

// A plain tensor, or null for None; false for anything else.
bool optional_tensor(PyObject* o, const Tensor*& to) {
  to = o == Py_None ? nullptr : plain_tensor(o);
  return o == Py_None || to != nullptr;
}

std::optional<Tensor> given(const Tensor* t) { return t == nullptr ? std::nullopt : std::make_optional(*t); }

bool finite(PyObject* o, double& to) {
  if (!PyFloat_CheckExact(o)) return false;
  to = PyFloat_AS_DOUBLE(o);
  return std::isfinite(to);
}

bool text(PyObject* o, c10::string_view& to) {
  Py_ssize_t length = 0;
  const char* characters = PyUnicode_CheckExact(o) ? PyUnicode_AsUTF8AndSize(o, &length) : nullptr;
  if (characters == nullptr) return false;
  to = c10::string_view(characters, length);
  return true;
}

// x, bias, dim, act, alpha, gain, clamp: the last four as ops.bias_act.resolve gives them
PyObject* bias_act(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  using Signature =
      Tensor(const Tensor&, const std::optional<Tensor>&, int64_t, c10::string_view, double, double, double);
  static const auto op = find<Signature>("gankernels_native::bias_act");
  const Tensor* bias = nullptr;
  int64_t dim = 0;
  c10::string_view act;
  double alpha = 0, gain = 0, clamp = 0;
  if (count != 7 || !plain_context()) return not_plain();
  const Tensor* x = plain_tensor(args[0]);
  if (x == nullptr || !optional_tensor(args[1], bias) || !number(args[2], 0, dim) || dim >= x->dim() ||
      x->size(dim) == 0 || !text(args[3], act) || !finite(args[4], alpha) || !finite(args[5], gain) ||
      !finite(args[6], clamp))
    return not_plain();
  if (bias != nullptr && (bias->dim() != 1 || bias->size(0) != x->size(dim) || bias->scalar_type() != x->scalar_type()))
    return not_plain();
  Tensor y;
  {
    pybind11::gil_scoped_release release;
    y = op.call(*x, given(bias), dim, act, alpha, gain, clamp);
  }
  return THPVariable_Wrap(std::move(y));
  END_HANDLE_TH_ERRORS
}

// x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha, gain; act, alpha and gain as above
PyObject* batch_norm_act(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  using Given = const std::optional<Tensor>&;
  using Signature = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, Given, Given, Given, Given, bool, double,
                                                               c10::string_view, double, double);
  static const auto op = find<Signature>("gankernels_native::batch_norm_act");
  std::array<const Tensor*, 4> channels{};  // weight, bias, running mean, running variance
  c10::string_view act;
  double momentum = 0, eps = 0, alpha = 0, gain = 0;
  if (count != 11 || !plain_context()) return not_plain();
  const Tensor* x = plain_tensor(args[0]);
  const bool training = args[5] == Py_True;
  if (x == nullptr || x->dim() < 2 || !PyBool_Check(args[5]) || !finite(args[6], momentum) || !finite(args[7], eps) ||
      eps <= 0 || !text(args[8], act) || !finite(args[9], alpha) || !finite(args[10], gain))
    return not_plain();
  if (x->numel() == 0 || (training && x->numel() == x->size(1))) return not_plain();
  std::optional<at::ScalarType> dtype;
  for (const int i : {0, 1, 2, 3}) {
    if (!optional_tensor(args[1 + i], channels[i])) return not_plain();
    const Tensor* t = channels[i];
    if (t == nullptr) continue;
    if (t->dim() != 1 || t->size(0) != x->size(1) || (i > 1 && t->requires_grad()) ||
        t->scalar_type() != dtype.value_or(t->scalar_type()))
      return not_plain();
    dtype = t->scalar_type();
  }
  if (dtype && *dtype != x->scalar_type() && !(x->element_size() == 2 && *dtype == at::kFloat)) return not_plain();
  const Tensor *mean = channels[2], *var = channels[3];
  if ((mean == nullptr) != (var == nullptr) || (mean == nullptr && !training)) return not_plain();
  Tensor y;
  {
    pybind11::gil_scoped_release release;
    auto [out, batch_mean, invstd, batch_var] =
        op.call(*x, given(channels[0]), given(channels[1]), given(mean), given(var), training, eps, act, alpha, gain);
    y = std::move(out);
    if (training && mean != nullptr) {
      const at::NoGradGuard no_grad;
      mean->lerp_(batch_mean.to(*dtype), momentum);
      var->lerp_(batch_var.to(*dtype), momentum);
    }
  }
  return THPVariable_Wrap(std::move(y));
  END_HANDLE_TH_ERRORS
}

// x, weight, bias, stride, padding, dilation, groups
PyObject* conv2d(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const auto op = find<Convolution>("gankernels_native::conv2d");
  Conv c;
  if (count != 7 || !c.read(args[0], args[1], args[2], args[3], args[4], args[5], args[6])) return not_plain();
  if (c.x->size(1) != c.weight->size(1) * c.groups || (c.bias && c.bias->size(0) != c.weight->size(0)))
    return not_plain();
  for (const int d : {0, 1}) {
    const int64_t reach = c.x->size(2 + d) + 2 * c.padding[d] - c.dilation[d] * (c.weight->size(2 + d) - 1) - 1;
    if (reach < 0) return not_plain();
    c.size[d] = reach / c.stride[d] + 1;
  }
  if (c.size[0] > kMostPixels / c.size[1]) return not_plain();
  return c.run(op);
  END_HANDLE_TH_ERRORS
}

// x, weight, bias, stride, padding, output_padding, groups, dilation
PyObject* conv_transpose2d(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const auto op = find<Convolution>("gankernels_native::conv_transpose2d");
  Conv c;
  Pair extra;
  if (count != 8 || !c.read(args[0], args[1], args[2], args[3], args[4], args[7], args[6]) || !pair(args[5], 0, extra))
    return not_plain();
  if (c.x->size(1) != c.weight->size(0) || (c.bias && c.bias->size(0) != c.weight->size(1) * c.groups))
    return not_plain();
  for (const int d : {0, 1}) {
    c.size[d] = (c.x->size(2 + d) - 1) * c.stride[d] - 2 * c.padding[d] + c.dilation[d] * (c.weight->size(2 + d) - 1) +
                1 + extra[d];
    if (extra[d] >= std::max(c.stride[d], c.dilation[d]) || c.size[d] < 1) return not_plain();
  }
  if (c.size[0] > kMostPixels / c.size[1]) return not_plain();
  return c.run(op);
  END_HANDLE_TH_ERRORS
}

template <class F>
PyCFunction untyped(F f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}

PyMethodDef methods[] = {
    {"plain_batch_norm_act", untyped(&batch_norm_act), METH_FASTCALL, nullptr},
    {"plain_bias_act", untyped(&bias_act), METH_FASTCALL, nullptr},
    {"plain_conv2d", untyped(&conv2d), METH_FASTCALL, nullptr},
    {"plain_conv_transpose2d", untyped(&conv_transpose2d), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

namespace gk {

void define_plain_calls(PyObject* module) {
  if (PyModule_AddFunctions(module, methods) != 0) throw pybind11::error_already_set();
}

}  // namespace gk
