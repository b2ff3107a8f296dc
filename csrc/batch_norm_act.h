// The arithmetic of the normalisations that CPU and CUDA share: what follows from a pass's sums.
//
// With r = 1 / sqrt(var + eps), xh = (x - mean) r and u = weight xh + bias, y = gain act(u). A pass sees the centred
// x - mean, so sums and factors below are over that. Batch statistics make mean and r functions of x; given ones do
// not.
//
// A set is what shares a mean: a channel, or with statistics of each sample a channel of a sample. A cell is what
// shares weight and bias: the whole set, or where these are a sample's own one sample's part of it; weight and bias may
// also be an element's own, (1 + scale) and shift.
#pragma once
#include "bias_act.h"

namespace gk {

// What is summed over a cell; h is gy gain act''(u).
constexpr int kNormBackwardSums = 2, kNormSecondSumsLinear = 5, kNormSecondSums = 10;
// And over a set where scale is an element's own.
constexpr int kPixelSecondSumsLinear = 7, kPixelSecondSums = 14;

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

template <bool smooth, class T>
GK_HD void pixel_second_terms(T d, T h, T v, T centred, T weight, T p, T q, T r, T* out) {
  out[0] = weight * d;
  out[1] = out[0] * centred;
  out[2] = v;
  out[3] = v * centred;
  out[4] = out[0] * v;
  out[5] = p * d;
  out[6] = out[5] * centred;
  if constexpr (smooth) {
    out[7] = weight * weight * h;
    out[8] = out[7] * centred;
    out[9] = out[8] * centred;
    out[10] = out[7] * v;
    out[11] = out[10] * centred;
    out[12] = weight * h * (p * (r * centred) + q);
    out[13] = out[12] * centred;
  }
}

// 1 / (elements of a set) where its statistics are its own, else 0, which makes every mean below 0.
template <class R>
GK_HD R share_of_set(R count, bool batch_statistics) {
  return batch_statistics && count > 0 ? 1 / count : R(0);
}

// With d = gy gain act'(u): gx = weight r d + on_x (x - mean) + constant. The means of weight d and of weight d xh over
// a set, of which cells are added one by one.
template <class R>
struct NormBackward {
  R mean = 0, slope = 0;

  GK_HD void add(const R* sums, R weight) {
    mean += weight * sums[0];
    slope += weight * sums[1];
  }
  GK_HD void close(R over, R r) {
    mean *= over;
    slope *= r * over;
  }
  GK_HD R on_x(R r) const { return -r * r * slope; }
  GK_HD R constant(R r) const { return -r * mean; }
};

// The derivative of the above, for v, p, q against (gx, grad_weight, grad_bias). It follows from
// sum(v gx + p grad_weight + q grad_bias) = sum(d t), where t = weight r P v + p xh + q and P takes away the mean and
// the part along xh (given statistics: P = 1). The results are for gy: gain act'(u) t, and for x: weight r h t + r (p -
// weight r v_slope) d + on_v v + on_x (x - mean) + constant. Here is what a set needs: means of weight d, of v and of p
// d, their parts along xh, the mean of weight d P v, and from curvature those of weight h t.
template <class R>
struct NormSecond {
  R d_mean = 0, d_slope = 0, v_mean = 0, v_slope = 0, dv = 0, p_mean = 0, p_slope = 0, e_mean = 0, e_slope = 0;

  GK_HD void add(const R* sums, R weight, R p) {
    d_mean += weight * sums[0];
    d_slope += weight * sums[1];
    v_mean += sums[2];
    v_slope += sums[3];
    dv += weight * sums[4];
    p_mean += p * sums[0];
    p_slope += p * sums[1];
  }
  GK_HD void close(R over, R r) {
    const R along = r * over;
    d_mean *= over, v_mean *= over, p_mean *= over;
    d_slope *= along, v_slope *= along, p_slope *= along;
    dv = over * dv - (v_mean * d_mean + v_slope * d_slope);
  }
  // Sums over elements whose scale is their own: all at once.
  template <bool smooth>
  GK_HD void add_pixels(const R* sums, R over, R r) {
    d_mean = sums[0], d_slope = sums[1], v_mean = sums[2], v_slope = sums[3], dv = sums[4];
    p_mean = sums[5], p_slope = sums[6];
    close(over, r);
    if constexpr (smooth) {
      const R* h = sums + 7;
      e_mean = over * (r * (h[3] - v_mean * h[0] - v_slope * r * h[1]) + h[5]);
      e_slope = over * r * (r * (h[4] - v_mean * h[1] - v_slope * r * h[2]) + h[6]);
    }
  }
  GK_HD R on_v(R r) const { return -r * r * d_slope; }
  GK_HD R on_x(R r) const { return -r * r * (e_slope + p_slope + r * (dv - 2 * v_slope * d_slope)); }
  GK_HD R constant(R r) const { return -r * (e_mean + p_mean - r * (v_slope * d_mean + d_slope * v_mean)); }
};

// A cell of a closed set: t = t_on_v v + t_on_x (x - mean) + t_constant, and t_on_x is also what multiplies d for x.
template <class R>
struct NormSecondCell {
  R t_on_v, t_on_x, t_constant;

  GK_HD NormSecondCell(const NormSecond<R>& set, R weight, R r, R p, R q) {
    t_on_v = weight * r;
    t_on_x = (p - t_on_v * set.v_slope) * r;
    t_constant = q - t_on_v * set.v_mean;
  }
  // Sums of h t and of h t xh, the former being the gradient of bias; they exist where the activation is curved.
  GK_HD R bias_grad(const R* sums) const {
    const R* h = sums + 5;
    return t_on_v * h[3] + t_on_x * h[1] + t_constant * h[0];
  }
  GK_HD R slope(const R* sums, R r) const {
    const R* h = sums + 5;
    return r * (t_on_v * h[4] + t_on_x * h[2] + t_constant * h[1]);
  }
  GK_HD R weight_grad(const NormSecond<R>& set, const R* sums, R r) const {
    return slope(sums, r) + r * (sums[4] - set.v_mean * sums[0] - set.v_slope * r * sums[1]);
  }
  GK_HD void add_to(NormSecond<R>& set, const R* sums, R weight, R over, R r) const {
    set.e_mean += over * weight * bias_grad(sums);
    set.e_slope += over * weight * slope(sums, r);
  }
};

}  // namespace gk
