// spectral_norm on the GPU: lists of torch tensors to entries.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <array>

#include "device.h"
#include "spectral_norm.h"
#include "spectral_norm_params.h"

GK_DECLARE_RUNNER(spectral_norm);

namespace gk {
namespace {

using at::Tensor;
using at::TensorList;
using Tensors = std::vector<Tensor>;

// The matrices of a call as entries take them.
struct Lists {
  std::vector<i64> rows, cols;
  i64 stride = 1;

  Lists(const Matrices& m, const Tensor& w) : rows(m.rows.begin(), m.rows.end()), cols(m.cols.begin(), m.cols.end()) {
    for (size_t i = 0; i < rows.size(); ++i)
      stride = std::max(stride, gk_spectral_norm_parts(rows[i], cols[i], dtype_code(w)));
  }
  i64 count() const { return static_cast<i64>(rows.size()); }
};

std::vector<i64> addresses(const Call& call, const Tensors& tensors) {
  std::vector<i64> out;
  for (const Tensor& t : tensors) out.push_back(reinterpret_cast<i64>(call.pointer(t)));
  return out;
}
const i64* data(const std::vector<i64>& list) { return list.empty() ? nullptr : list.data(); }

Tensors like(const Tensors& tensors) {
  Tensors out;
  for (const Tensor& t : tensors) out.push_back(at::empty_like(t));
  return out;
}

std::tuple<Tensors, Tensor, Tensor, Tensor> spectral_norm_cuda(TensorList weights, const Tensor& u,
                                                               const std::optional<Tensor>& v, int64_t iterations,
                                                               double eps) {
  const Matrices m(weights);
  const Tensors w = contiguous(weights), y = like(w);
  m.check_vectors(u, v, w[0]);
  const Lists lists(m, w[0]);
  const bool classic = !v.has_value(), product = !classic && iterations == 0;
  const Tensor given_u = u.contiguous(), given_v = classic ? at::empty({m.v_size}, u.options()) : v->contiguous();
  const Tensor s = at::empty_like(given_u), t = at::empty_like(given_v),
               s_parts = at::empty({lists.count(), lists.stride}, u.options()), t_parts = at::empty_like(s_parts);
  const Tensor new_u = iterations ? at::empty_like(given_u) : given_u.clone();
  const Tensor new_v = product ? given_v.clone() : at::empty_like(given_v);
  const Tensor sigma = at::empty({lists.count()}, u.options());
  const Call call("spectral_norm", GK_RUNNER(spectral_norm), w[0]);
  const std::vector<i64> from = addresses(call, w), to = addresses(call, y);
  const auto step = [&](i64 what, i64 flags, const Tensor& u, const Tensor& v) {
    call.check(gk_spectral_norm_step(data(from), data(to), lists.rows.data(), lists.cols.data(), lists.count(),
                                     call.pointer(u), call.pointer(v), call.pointer(s), call.pointer(t),
                                     call.pointer(new_u), call.pointer(new_v), call.pointer(sigma),
                                     call.pointer(s_parts), call.pointer(t_parts), lists.stride, what, flags, eps,
                                     dtype_code(w[0]), call.launcher()));
  };
  if (classic) step(1, 0, given_u, given_v);
  for (int64_t i = 0; i < iterations; ++i) {
    const bool raw = classic || i > 0;
    step(0, raw ? kSpectralRaw : 0, given_u, raw ? t : given_v);
    if (!classic || i + 1 < iterations) step(1, kSpectralRaw, s, t);
  }
  if (product) step(0, kSpectralProduct, given_u, given_v);
  const bool ends_with_v = !product && !(classic && iterations);
  step(2,
       (ends_with_v ? kSpectralLastV : 0) | (iterations ? kSpectralWriteU : 0) | (product ? kSpectralProduct : 0) |
           (product ? 0 : kSpectralWriteV),
       given_u, given_v);
  return {y, new_u, new_v, sigma};
}

// The derivatives' launches: dots first, then combinations of them.
struct Derivative {
  const Matrices m;
  const Lists lists;
  const Tensor u, v, sigma, parts;
  const Call call;

  Derivative(TensorList weights, const Tensor& u, const Tensor& v, const Tensor& sigma)
      : m(weights),
        lists(m, weights[0]),
        u(u.contiguous()),
        v(v.contiguous()),
        sigma(sigma.contiguous()),
        parts(at::empty({lists.count(), 3, lists.stride}, u.options().dtype(at::kDouble))),
        call("spectral_norm", GK_RUNNER(spectral_norm), weights[0]) {
    m.check_vectors(u, v, weights[0]);
    m.check("sigma", sigma, m.size(), weights[0]);
  }

  void run(i64 what, const Tensors& a, const Tensors& b, const Tensors& c, const Tensors& out, const Tensor& like) {
    const std::vector<i64> pa = addresses(call, a), pb = addresses(call, b), pc = addresses(call, c),
                           po = addresses(call, out);
    call.check(gk_spectral_norm_derivative(data(pa), data(pb), data(pc), data(po), lists.rows.data(), lists.cols.data(),
                                           lists.count(), call.pointer(u), call.pointer(v), call.pointer(sigma),
                                           call.pointer(parts), lists.stride, what, dtype_code(like), call.launcher()));
  }
};

Tensors spectral_norm_backward_cuda(TensorList g, TensorList weights, const Tensor& u, const Tensor& v,
                                    const Tensor& sigma) {
  Derivative d(weights, u, v, sigma);
  d.m.check_alike("g", g, weights);
  const Tensors gc = contiguous(g), w = contiguous(weights), out = like(gc);
  d.run(3, {}, gc, w, {}, w[0]);
  d.run(0, gc, {}, {}, out, w[0]);
  return out;
}

std::tuple<Tensors, Tensors> spectral_norm_double_backward_cuda(TensorList h, TensorList g, TensorList weights,
                                                                const Tensor& u, const Tensor& v, const Tensor& sigma,
                                                                std::array<bool, 2> wanted) {
  Derivative d(weights, u, v, sigma);
  d.m.check_alike("h", h, weights);
  d.m.check_alike("g", g, weights);
  const Tensors hc = contiguous(h), gc = contiguous(g), w = contiguous(weights), none;
  d.run(3, hc, wanted[1] ? gc : none, wanted[1] ? w : none, none, w[0]);
  const Tensors gg = wanted[0] ? like(hc) : none, gw = wanted[1] ? like(gc) : none;
  if (wanted[0]) d.run(1, hc, w, none, gg, w[0]);
  if (wanted[1]) d.run(2, gc, none, none, gw, w[0]);
  return {gg, gw};
}

}  // namespace

TORCH_LIBRARY_IMPL(gankernels_native, CUDA, m) {
  m.impl("spectral_norm", &spectral_norm_cuda);
  m.impl("spectral_norm_backward", &spectral_norm_backward_cuda);
  m.impl("spectral_norm_double_backward", &spectral_norm_double_backward_cuda);
}

}  // namespace gk
