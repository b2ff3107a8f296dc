// The activations and their derivatives up to the third, as scalar arithmetic for the CPU loops and the CUDA kernels.
// Exponentials are taken of -|u| only, so nothing overflows; every function passes NaN on.
#pragma once

#include "host_device.h"

#if !defined(__CUDACC_RTC__)
#include <cmath>
#include <cstring>
#endif

namespace gk {

#define GK_EACH_ACT(X) X(linear) X(relu) X(lrelu) X(tanh) X(sigmoid) X(elu) X(selu) X(softplus) X(swish)
#define GK_ACT_NAME(name) name,
enum class Act : int { GK_EACH_ACT(GK_ACT_NAME) };
#undef GK_ACT_NAME

// The numbers of bias_act; bound is infinite where there is no clamp.
struct ActParams {
  double alpha, gain, bound;
};

namespace math {

GK_HD double exp_nonpositive(double x) { return ::exp(x); }
GK_HD double expm1_nonpositive(double x) { return ::expm1(x); }
GK_HD double log1p_unit(double x) { return ::log1p(x); }

#if defined(__CUDA_ARCH__)
GK_HD float exp_nonpositive(float x) { return ::expf(x); }
GK_HD float expm1_nonpositive(float x) { return ::expm1f(x); }
GK_HD float log1p_unit(float x) { return ::log1pf(x); }
#else
// Branch-free, so that a loop around them is vectorised; errors stay within 2 ulp.
GK_HD float exp_nonpositive(float x) {
  const float c = x < -104.0f ? -104.0f : x;
  const float shifted = c * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
  int bits;
  memcpy(&bits, &shifted, 4);
  const float n = shifted - 12582912.0f;
  const float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int exponent = bits - 0x4B400000, half = exponent >> 1;  // in two factors, so that subnormals come out
  const int low_bits = (half + 127) * (1 << 23), high_bits = (exponent - half + 127) * (1 << 23);
  float low, high;
  memcpy(&low, &low_bits, 4);
  memcpy(&high, &high_bits, 4);
  return p * low * high;
}
GK_HD float expm1_nonpositive(float x) {
  float p = 1.9841270e-4f;  // Taylor: for |x| < 0.35 the next term is below 1e-8 of x
  p = p * x + 1.3888889e-3f;
  p = p * x + 8.3333333e-3f;
  p = p * x + 4.1666667e-2f;
  p = p * x + 1.6666667e-1f;
  p = p * x + 0.5f;
  const float near = p * (x * x) + x;
  const float far = exp_nonpositive(x) - 1.0f;
  return x > -0.35f ? near : far;
}
GK_HD float log1p_unit(float x) {  // 0 <= x <= 1: 2 atanh(x / (2 + x))
  const float s = x / (2.0f + x), z = s * s;
  float p = 1.0f / 15;
  p = p * z + 1.0f / 13;
  p = p * z + 1.0f / 11;
  p = p * z + 1.0f / 9;
  p = p * z + 1.0f / 7;
  p = p * z + 1.0f / 5;
  p = p * z + 1.0f / 3;
  return 2.0f * (p * z * s + s);
}
#endif

// tanh where |x| < 0.625: a polynomial, within an ulp.
GK_HD float tanh_near(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  return p * z * x + x;
}
GK_HD double tanh_near(double x) { return ::tanh(x); }

}  // namespace math

// Derivative of order K (0: the value) of activation A at u.
template <Act A, int K, class T>
GK_HD T act_derivative(T u, T alpha) {
  static_assert(K >= 0 && K <= 3, "derivatives of order 0 to 3");
  if constexpr (A == Act::linear) {
    return K == 0 ? u : K == 1 ? T(1) : T(0);
  } else if constexpr (A == Act::relu) {
    return K == 0 ? (u < 0 ? T(0) : u) : K == 1 ? (u > 0 ? T(1) : T(0)) : T(0);
  } else if constexpr (A == Act::lrelu) {
    return K == 0 ? (u > 0 ? u : alpha * u) : K == 1 ? (u > 0 ? T(1) : alpha) : T(0);
  } else if constexpr (A == Act::elu || A == Act::selu) {
    const T slope = A == Act::selu ? T(1.0507009873554804934193349852946) : T(1);
    const T scale = A == Act::selu ? T(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717) : alpha;
    const T low = u > 0 ? T(0) : u;
    if constexpr (K == 0) return u > 0 ? slope * u : scale * math::expm1_nonpositive(low);
    const T e = scale * math::exp_nonpositive(low);
    if constexpr (K > 1) return u < 0 ? e : T(0);  // at 0 as PyTorch's: the slope from below, no curvature
    return u > 0 ? slope : e;
  } else if constexpr (A == Act::tanh) {
    const T a = u < 0 ? -u : u;
    const bool near = a < T(0.625);
    const T q = math::exp_nonpositive(-2 * a);
    const T rest = 2 * q / (1 + q);  // 1 - tanh(a)
    const T far = u < 0 ? rest - 1 : 1 - rest;
    const T t = near ? math::tanh_near(u) : far;
    if constexpr (K == 0) return t;
    // Near zero the square is small, and with it its error; far from it the rest is.
    const T d = near ? 1 - t * t : 2 * rest - rest * rest;
    return K == 1 ? d : K == 2 ? -2 * t * d : d * (6 * t * t - 2);
  } else {  // built on the logistic function s
    const T e = math::exp_nonpositive(u < 0 ? u : -u), r = 1 / (1 + e);
    const T s = u < 0 ? e * r : r;
    const T d1 = e * r * r;
    const T skew = u < 0 ? (1 - e) * r : (e - 1) * r;  // 1 - 2 s
    const T d2 = d1 * skew, d3 = d1 * (1 - 6 * d1);
    if constexpr (A == Act::sigmoid) {
      return K == 0 ? s : K == 1 ? d1 : K == 2 ? d2 : d3;
    } else if constexpr (A == Act::softplus) {  // PyTorch's threshold: linear above 20
      if constexpr (K == 0) return u > 20 ? u : (u < 0 ? T(0) : u) + math::log1p_unit(e);
      return u > 20 ? (K == 1 ? T(1) : T(0)) : K == 1 ? s : K == 2 ? d1 : d2;
    } else {
      return K == 0 ? u * s : K == 1 ? s + u * d1 : K == 2 ? 2 * d1 + u * d2 : 3 * d2 + u * d3;
    }
  }
}

// gain * act(u) held within +-bound (infinite for no clamp: a branch on that would stop vectorisation).
template <Act A, class T>
GK_HD T bias_act_value(T u, T alpha, T gain, T bound) {
  const T v = gain * act_derivative<A, 0>(u, alpha);
  const T high = v > bound ? bound : v;
  return high < -bound ? -bound : high;
}

// factor * (derivative of order K of the above); at |v| == bound the gradient passes, as torch.clamp's does.
template <Act A, int K, class T>
GK_HD T bias_act_derivative(T factor, T u, T alpha, T gain, T bound) {
  const T v = gain * act_derivative<A, 0>(u, alpha);
  const T d = factor * (gain * act_derivative<A, K>(u, alpha));
  return (v > bound || v < -bound) ? T(0) : d;
}

// Derivative of order K - 1, in y, of the slope f' written as a function of y = f(u), without a bound: what tells the
// slope from the output alone. Exists for relu and lrelu (alpha >= 0) with gain > 0, tanh and sigmoid with gain 1.
template <Act A, int K, class T>
GK_HD T slope_of_output(T y, T alpha, T gain) {
  if constexpr (A == Act::tanh || A == Act::sigmoid) {
    if constexpr (K == 1 && A == Act::tanh)  // 1 - y is exact where the square is near 1
      return y * y < T(0.5) ? 1 - y * y : (1 - y) * (1 + y);
    if constexpr (K == 1) return y * (1 - y);
    if constexpr (K == 2) return A == Act::tanh ? -2 * y : 1 - 2 * y;
    return T(-2);
  } else {
    return gain * act_derivative<A == Act::relu ? Act::relu : Act::lrelu, K>(y, alpha);
  }
}

GK_HD bool has_slope_of_output(Act act, double alpha, double gain, bool bounded) {
  // A curve's slope needs y / gain exactly: rounding in 16 bits would move it where the curve saturates.
  if (act == Act::tanh || act == Act::sigmoid) return gain == 1 && !bounded;
  const bool whole = act == Act::relu || (act == Act::lrelu && alpha >= 0);
  return whole && gain > 0 && !bounded;  // at a bound y is ambiguous, and a negative gain turns signs
}

// Piecewise linear: every derivative from the second on is zero.
GK_HD bool piecewise_linear(Act act) { return act == Act::linear || act == Act::relu || act == Act::lrelu; }

}  // namespace gk
