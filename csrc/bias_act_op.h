// What the CPU and CUDA sides of bias_act share with its autograd: names and checks.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <type_traits>

#include "bias_act.h"

namespace gk {

inline Act parse_act(c10::string_view name) {
#define GK_CASE(act) \
  if (name == #act) return Act::act;
  GK_EACH_ACT(GK_CASE)
#undef GK_CASE
  TORCH_CHECK(false, "bias_act: act is '", name, "', which is none of the nine activations");
}

// f(std::integral_constant<Act, act>()): a kernel for each activation.
template <class F>
inline void with_act(Act act, F f) {
#define GK_CASE(name) \
  case Act::name:     \
    return f(std::integral_constant<Act, Act::name>());
  switch (act) { GK_EACH_ACT(GK_CASE) }
#undef GK_CASE
}

// The layout in which bias_act works, and in which it returns, a tensor with channels along `dim`.
inline at::MemoryFormat format_of(const at::Tensor& x, int64_t dim) {
  return dim == 1 ? x.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

// `like` must match x in dtype and device; undefined is fine.
inline void check_like(const char* op, const char* name, const at::Tensor& like, const at::Tensor& x) {
  TORCH_CHECK(!like.defined() || (like.scalar_type() == x.scalar_type() && like.device() == x.device()), op, ": ", name,
              " is ", like.scalar_type(), " on ", like.device(), ", expected ", x.scalar_type(), " on ", x.device());
}

inline void check_bias_act(const at::Tensor& x, const std::optional<at::Tensor>& bias, const char* name, int64_t dim) {
  TORCH_CHECK(dim >= 0 && dim < x.dim(), "bias_act: dim is ", dim, " for a tensor of ", x.dim(), " dimensions");
  if (!bias.has_value()) return;
  check_like("bias_act", name, *bias, x);
  TORCH_CHECK(bias->dim() == 1 && bias->size(0) == x.size(dim), "bias_act: ", name, " has shape ", bias->sizes(),
              ", expected [", x.size(dim), "]");
}

inline void check_same(const std::optional<at::Tensor>& other, const char* name, const at::Tensor& x) {
  if (!other.has_value()) return;
  check_like("bias_act", name, *other, x);
  TORCH_CHECK(other->sizes() == x.sizes(), "bias_act: ", name, " has shape ", other->sizes(), ", expected ", x.sizes());
}

}  // namespace gk
