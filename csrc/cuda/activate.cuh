// The activation in a pass of any order, for kernels whose params name it: act, alpha, gain, bound and the wide three.
#pragma once
#include "bias_act.h"

namespace gk {

template <typename acc_t>
struct ActNumbers {
  acc_t alpha, gain, bound;

  template <class Params>
  __device__ __forceinline__ explicit ActNumbers(const Params& p) {
    if constexpr (sizeof(acc_t) == 8) {
      alpha = p.wide_alpha, gain = p.wide_gain, bound = p.wide_bound;
    } else {
      alpha = p.alpha, gain = p.gain, bound = p.bound;
    }
  }
};

// Order 0: v = f(u). 1: d = g f'(u). 2: that, q becomes q f'(u), v = g q f''(u).
template <Act A, int K, typename acc_t, int V>
__device__ __forceinline__ void derive(const acc_t (&u)[V], const acc_t (&g)[V], acc_t (&d)[V], acc_t (&q)[V],
                                       acc_t (&v)[V], const ActNumbers<acc_t>& n) {
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if constexpr (K == 0) {
      v[i] = bias_act_value<A>(u[i], n.alpha, n.gain, n.bound);
    } else {
      d[i] = bias_act_derivative<A, 1>(g[i], u[i], n.alpha, n.gain, n.bound);
      if constexpr (K == 2) {
        v[i] = bias_act_derivative<A, 2>(g[i] * q[i], u[i], n.alpha, n.gain, n.bound);
        q[i] = bias_act_derivative<A, 1>(q[i], u[i], n.alpha, n.gain, n.bound);
      }
    }
  }
}

// Every thread takes the same branch.
template <int K, class Params, typename acc_t, int V>
__device__ __forceinline__ void activate(const Params& p, const acc_t (&u)[V], const acc_t (&g)[V], acc_t (&d)[V],
                                         acc_t (&q)[V], acc_t (&v)[V]) {
  const ActNumbers<acc_t> n(p);
#define GK_CASE(name) \
  case Act::name:     \
    return derive<Act::name, K>(u, g, d, q, v, n);
  switch (static_cast<Act>(p.act)) { GK_EACH_ACT(GK_CASE) }
#undef GK_CASE
}

}  // namespace gk
