// The arithmetic of batch_norm_act that CPU and CUDA share: what follows, channel by channel, from a pass's sums.
//
// With r = 1 / sqrt(var + eps), xh = (x - mean) r and u = weight xh + bias, y = gain act(u). A pass sees the centred
// x - mean, so sums and factors below are over that. Batch statistics make mean and r functions of x; given ones do
// not.
#pragma once
#include "bias_act.h"

namespace gk {

// What is summed over a channel; h is gy gain act''(u).
constexpr int kNormBackwardSums = 2, kNormSecondSumsLinear = 5, kNormSecondSums = 10;

template <class T>
GK_HD void norm_backward_terms(T d, T centred, T* out) {
  out[0] = d;
  out[1] = d * centred;
}
template <bool smooth, class T>
GK_HD void norm_second_terms(T d, T h, T v, T centred, T* out) {
  out[0] = d;
  out[1] = d * centred;
  out[2] = v;
  out[3] = v * centred;
  out[4] = d * v;
  if constexpr (smooth) {
    out[5] = h;
    out[6] = h * centred;
    out[7] = out[6] * centred;
    out[8] = h * v;
    out[9] = out[8] * centred;
  }
}

// With d = gy gain act'(u): gx = on_d d + on_x (x - mean) + constant.
template <class R>
struct NormBackward {
  R on_d, on_x, constant, grad_weight, grad_bias;

  GK_HD NormBackward(const R* sums, R count, bool batch_statistics, R weight, R r) {
    grad_bias = sums[0];
    grad_weight = r * sums[1];
    on_d = weight * r;
    const R over = batch_statistics && count > 0 ? 1 / count : R(0);
    on_x = -on_d * r * grad_weight * over;
    constant = -on_d * grad_bias * over;
  }
};

// The derivative of the above: for v, p, q against (gx, grad_weight, grad_bias), and with
// t = t_on_v v + t_on_x (x - mean) + t_constant, the results are
// for gy: gain act'(u) t, and for x: on_ht h t + on_d d + on_v v + on_x (x - mean) + constant.
//
// It follows from sum(v gx + p grad_weight + q grad_bias) = sum(d t), where t = weight r P v + p xh + q and P takes
// away the mean and the part along xh (given statistics: P = 1).
template <class R>
struct NormSecond {
  R t_on_v, t_on_x, t_constant, on_ht, on_d, on_v, on_x, constant, grad_weight, grad_bias;

  GK_HD NormSecond(const R* sums, R count, bool batch_statistics, R weight, R r, R p, R q) {
    const R over = batch_statistics && count > 0 ? 1 / count : R(0);
    const R d_mean = sums[0] * over, d_slope = r * sums[1] * over;
    const R v_mean = sums[2] * over, v_slope = r * sums[3] * over;
    const R dv = sums[4] - count * (v_mean * d_mean + v_slope * d_slope);  // sum of d P v
    const R *h = sums + 5, scale = weight * r;
    const R on_xh = p - scale * v_slope;
    t_on_v = scale;
    t_on_x = on_xh * r;
    t_constant = q - scale * v_mean;
    const R e = t_on_v * h[3] + t_on_x * h[1] + t_constant * h[0];              // sum of h t
    const R e_slope = r * (t_on_v * h[4] + t_on_x * h[2] + t_constant * h[1]);  // sum of h t xh
    const R mean = weight * e * over + on_xh * d_mean - scale * d_slope * v_mean;
    const R slope = weight * e_slope * over + (on_xh - scale * v_slope) * d_slope + scale * dv * over;
    on_ht = scale;
    on_d = r * on_xh;
    on_v = -r * scale * d_slope;
    on_x = -r * r * slope;
    constant = -r * mean;
    grad_weight = e_slope + r * dv;
    grad_bias = e;
  }
};

}  // namespace gk
