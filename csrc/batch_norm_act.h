// The arithmetic of batch_norm_act that CPU and CUDA share: what follows, channel by channel, from a pass's sums.
//
// With r = 1 / sqrt(var + eps), xh = (x - mean) r and u = weight xh + bias, y = gain act(u). A pass sees the centred
// x - mean, so sums and factors below are over that. Batch statistics make mean and r functions of x; given ones do
// not.
#pragma once
#include "bias_act.h"

namespace gk {

// With d = gy gain act'(u): gx = on_d d + on_x (x - mean) + constant.
struct NormBackward {
  static constexpr int kSums = 2;  // of d, d x
  double on_d, on_x, constant, grad_weight, grad_bias;

  GK_HD NormBackward(const double* sums, double count, bool batch_statistics, double weight, double r) {
    grad_bias = sums[0];
    grad_weight = r * sums[1];
    on_d = weight * r;
    const double over = batch_statistics && count > 0 ? 1.0 / count : 0.0;
    on_x = -on_d * r * grad_weight * over;
    constant = -on_d * grad_bias * over;
  }
};

// The derivative of the above: for v, p, q against (gx, grad_weight, grad_bias), and with h = gy gain act''(u),
// t = t_on_v v + t_on_x (x - mean) + t_constant, the results are
// for gy: gain act'(u) t, and for x: on_ht h t + on_d d + on_v v + on_x (x - mean) + constant.
//
// It follows from sum(v gx + p grad_weight + q grad_bias) = sum(d t), where t = weight r P v + p xh + q and P takes
// away the mean and the part along xh (given statistics: P = 1).
struct NormSecond {
  static constexpr int kSumsLinear = 5, kSums = 10;  // of d, d x, v, v x, d v; then of h, h x, h x x, h v, h v x
  double t_on_v, t_on_x, t_constant, on_ht, on_d, on_v, on_x, constant, grad_weight, grad_bias;

  GK_HD NormSecond(const double* sums, double count, bool batch_statistics, double weight, double r, double p,
                   double q) {
    const double over = batch_statistics && count > 0 ? 1.0 / count : 0.0;
    const double d_mean = sums[0] * over, d_slope = r * sums[1] * over;
    const double v_mean = sums[2] * over, v_slope = r * sums[3] * over;
    const double dv = sums[4] - count * (v_mean * d_mean + v_slope * d_slope);  // sum of d P v
    const double *h = sums + 5, scale = weight * r;
    const double on_xh = p - scale * v_slope;
    t_on_v = scale;
    t_on_x = on_xh * r;
    t_constant = q - scale * v_mean;
    const double e = t_on_v * h[3] + t_on_x * h[1] + t_constant * h[0];              // sum of h t
    const double e_slope = r * (t_on_v * h[4] + t_on_x * h[2] + t_constant * h[1]);  // sum of h t xh
    const double mean = weight * e * over + on_xh * d_mean - scale * d_slope * v_mean;
    const double slope = weight * e_slope * over + (on_xh - scale * v_slope) * d_slope + scale * dv * over;
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
