// Schemas and derivatives of spectral_norm. u and v are constants of every derivative, and sigma = u^T W v, as the
// formulas count it, a function of W: W / sigma has the gradient g / sigma - <g, W> / sigma^2 u v^T.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "autograd.h"

namespace gk {
namespace {

using at::Tensor;
using at::TensorList;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Tensors = std::vector<Tensor>;
using Result = std::tuple<Tensors, Tensor, Tensor, Tensor>;
using Wanted = std::array<bool, 2>;
using Value = Result(TensorList, const Tensor&, const optional<Tensor>&, int64_t, double);
using Backward = Tensors(TensorList, TensorList, const Tensor&, const Tensor&, const Tensor&);
using Second = std::tuple<Tensors, Tensors>(TensorList, TensorList, TensorList, const Tensor&, const Tensor&,
                                            const Tensor&, Wanted);

Result call_value(TensorList w, const Tensor& u, const optional<Tensor>& v, int64_t iterations, double eps) {
  static const auto op = find<Value>("gankernels_native::spectral_norm");
  return op.call(w, u, v, iterations, eps);
}
Tensors call_backward(TensorList g, TensorList w, const Tensor& u, const Tensor& v, const Tensor& sigma) {
  static const auto op = find<Backward>("gankernels_native::spectral_norm_backward");
  return op.call(g, w, u, v, sigma);
}
std::tuple<Tensors, Tensors> call_second(TensorList h, TensorList g, TensorList w, const Tensor& u, const Tensor& v,
                                         const Tensor& sigma, Wanted wanted) {
  static const auto op = find<Second>("gankernels_native::spectral_norm_double_backward");
  return op.call(h, g, w, u, v, sigma, wanted);
}

Tensors select(const Tensors& all, const std::vector<size_t>& which) {
  Tensors out;
  for (size_t i : which) out.push_back(all[i]);
  return out;
}

// The vectors and norms of the weights numbered `which`; sizes may be symbolic here.
struct Vectors {
  Tensor u, v, sigma;

  Vectors(const Tensors& w, const Tensor& all_u, const Tensor& all_v, const Tensor& norms,
          const std::vector<size_t>& which)
      : u(all_u), v(all_v), sigma(norms) {
    if (which.size() == w.size()) return;
    std::vector<c10::SymInt> rows, cols;
    for (const Tensor& t : w) {
      rows.push_back(t.sym_size(0));
      cols.push_back(t.sym_numel() / t.sym_size(0));
    }
    u = at::cat(select(all_u.split_with_sizes_symint(rows), which));
    v = at::cat(select(all_v.split_with_sizes_symint(cols), which));
    sigma = at::cat(select(norms.split(1), which));
  }
};

struct SpectralNormFunction : torch::autograd::Function<SpectralNormFunction> {
  static variable_list forward(AutogradContext* ctx, TensorList w, const Tensor& u, const optional<Tensor>& v,
                               int64_t iterations, double eps) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    auto [y, new_u, new_v, sigma] = call_value(w, u, v, iterations, eps);
    variable_list saved(w.begin(), w.end());
    saved.insert(saved.end(), {new_u, new_v, sigma});
    ctx->save_for_backward(saved);
    ctx->mark_non_differentiable({new_u, new_v, sigma});
    y.insert(y.end(), {new_u, new_v, sigma});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const size_t n = saved.size() - 3;
    const Tensors w(saved.begin(), saved.begin() + n);
    std::vector<size_t> which;
    for (size_t i = 0; i < n; ++i)
      if (grads[i].defined() && ctx->needs_input_grad(i)) which.push_back(i);
    variable_list out(n + 4);
    if (which.empty()) return out;
    const Vectors vectors(w, saved[n], saved[n + 1], saved[n + 2], which);
    const Tensors gw = call_backward(select(grads, which), select(w, which), vectors.u, vectors.v, vectors.sigma);
    for (size_t i = 0; i < which.size(); ++i) out[which[i]] = gw[i];
    return out;
  }
};

struct SpectralNormBackwardFunction : torch::autograd::Function<SpectralNormBackwardFunction> {
  static variable_list forward(AutogradContext* ctx, TensorList g, TensorList w, const Tensor& u, const Tensor& v,
                               const Tensor& sigma) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->set_materialize_grads(false);
    variable_list saved(g.begin(), g.end());
    saved.insert(saved.end(), w.begin(), w.end());
    saved.insert(saved.end(), {u, v, sigma});
    ctx->save_for_backward(saved);
    return call_backward(g, w, u, v, sigma);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const size_t n = (saved.size() - 3) / 2;
    const Tensors g(saved.begin(), saved.begin() + n), w(saved.begin() + n, saved.begin() + 2 * n);
    std::vector<size_t> which;
    Wanted wanted{false, false};
    for (size_t i = 0; i < n; ++i) {
      const bool of_g = ctx->needs_input_grad(i), of_w = ctx->needs_input_grad(n + i);
      if (!grads[i].defined() || !(of_g || of_w)) continue;
      which.push_back(i);
      wanted[0] |= of_g;
      wanted[1] |= of_w;
    }
    variable_list out(2 * n + 3);
    if (which.empty()) return out;
    const Vectors vectors(w, saved[2 * n], saved[2 * n + 1], saved[2 * n + 2], which);
    const auto [gg, gw] = call_second(select(grads, which), select(g, which), select(w, which), vectors.u, vectors.v,
                                      vectors.sigma, wanted);
    for (size_t i = 0; i < which.size(); ++i) {
      if (wanted[0]) out[which[i]] = gg[i];
      if (wanted[1]) out[n + which[i]] = gw[i];
    }
    return out;
  }
};

struct SpectralNormSecondFunction : torch::autograd::Function<SpectralNormSecondFunction> {
  static variable_list forward(AutogradContext*, TensorList h, TensorList g, TensorList w, const Tensor& u,
                               const Tensor& v, const Tensor& sigma, Wanted wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gg, gw] = call_second(h, g, w, u, v, sigma, wanted);
    gg.insert(gg.end(), gw.begin(), gw.end());
    return gg;
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false,
                "spectral_norm: the derivative of order 3 is not supported by the compiled backends; use "
                "gankernels.backend('reference')");
  }
};

Result spectral_norm_autograd(TensorList w, const Tensor& u, const optional<Tensor>& v, int64_t iterations,
                              double eps) {
  const variable_list out = SpectralNormFunction::apply(w, u, v, iterations, eps);
  const size_t n = w.size();
  return {Tensors(out.begin(), out.begin() + n), out[n], out[n + 1], out[n + 2]};
}
Tensors spectral_norm_backward_autograd(TensorList g, TensorList w, const Tensor& u, const Tensor& v,
                                        const Tensor& sigma) {
  return SpectralNormBackwardFunction::apply(g, w, u, v, sigma);
}
std::tuple<Tensors, Tensors> spectral_norm_second_autograd(TensorList h, TensorList g, TensorList w, const Tensor& u,
                                                           const Tensor& v, const Tensor& sigma, Wanted wanted) {
  const variable_list out = SpectralNormSecondFunction::apply(h, g, w, u, v, sigma, wanted);
  const size_t n = wanted[0] ? w.size() : 0;
  return {Tensors(out.begin(), out.begin() + n), Tensors(out.begin() + n, out.end())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def(
      "spectral_norm(Tensor[] w, Tensor u, Tensor? v, int iterations, float eps) -> (Tensor[] y, Tensor u_out, Tensor "
      "v_out, Tensor sigma)");
  m.def("spectral_norm_backward(Tensor[] g, Tensor[] w, Tensor u, Tensor v, Tensor sigma) -> Tensor[]");
  m.def(
      "spectral_norm_double_backward(Tensor[] h, Tensor[] g, Tensor[] w, Tensor u, Tensor v, Tensor sigma, bool[2] "
      "wanted) -> (Tensor[] gg, Tensor[] gw)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) {
  m.impl("spectral_norm", &spectral_norm_autograd);
  m.impl("spectral_norm_backward", &spectral_norm_backward_autograd);
  m.impl("spectral_norm_double_backward", &spectral_norm_second_autograd);
}

}  // namespace gk
