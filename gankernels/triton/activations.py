"""The activations and their derivatives up to the third, for every Triton kernel that carries one."""

import triton
import triton.language as tl


@triton.jit
def _expm1_nonpositive(x, e):
    if x.dtype == tl.float64:
        return e - 1.0
    p = 1.9841270e-4 * x + 1.3888889e-3  # Taylor near zero, where e - 1 cancels
    p = p * x + 8.3333333e-3
    p = p * x + 4.1666667e-2
    p = p * x + 1.6666667e-1
    p = p * x + 0.5
    return tl.where(x > -0.35, p * (x * x) + x, e - 1.0)


@triton.jit
def _log1p_unit(x):
    if x.dtype == tl.float64:
        return tl.log(1.0 + x)
    s = x / (2.0 + x)  # 0 <= x <= 1: 2 atanh(s)
    z = s * s
    p = 0.0666666667 * z + 0.0769230769
    p = p * z + 0.0909090909
    p = p * z + 0.1111111111
    p = p * z + 0.1428571429
    p = p * z + 0.2
    p = p * z + 0.3333333333
    return 2.0 * (p * z * s + s)


@triton.jit
def _tanh_near(x):
    z = x * x  # |x| < 0.625: a polynomial, within an ulp
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    return p * z * x + x


@triton.jit
def act_derivative(u, alpha, ACT: tl.constexpr, K: tl.constexpr):
    """Derivative of order K (0: the value) of activation ACT at u, in the dtype of u (float32 or float64)."""
    one = tl.full(u.shape, 1.0, u.dtype)
    zero = tl.full(u.shape, 0.0, u.dtype)
    if ACT == "linear":
        return u if K == 0 else (one if K == 1 else zero)
    elif ACT == "relu":
        return tl.where(u < 0, zero, u) if K == 0 else (tl.where(u > 0, one, zero) if K == 1 else zero)
    elif ACT == "lrelu":
        return tl.where(u > 0, u, alpha * u) if K == 0 else (tl.where(u > 0, one, alpha * one) if K == 1 else zero)
    elif ACT == "elu" or ACT == "selu":
        slope = 1.0507009873554804934 * one if ACT == "selu" else one  # a bare number would be float32
        scale = 1.7580993408473768600 * one if ACT == "selu" else alpha * one
        low = tl.where(u > 0, zero, u)
        e = tl.exp(low)
        if K == 0:
            return tl.where(u > 0, slope * u, scale * _expm1_nonpositive(low, e))
        if K > 1:  # at 0 as PyTorch's: the slope from below, no curvature
            return tl.where(u < 0, scale * e, zero)
        return tl.where(u > 0, slope, scale * e)
    elif ACT == "tanh":
        q = tl.exp(-2.0 * tl.abs(u))
        rest = 2.0 * q / (1.0 + q)  # 1 - tanh(|u|)
        t = tl.where(u < 0, rest - 1.0, 1.0 - rest)
        d = 2.0 * rest - rest * rest
        if u.dtype != tl.float64:  # near zero the square is small, and with it its error; far from it the rest is
            near = tl.abs(u) < 0.625
            t = tl.where(near, _tanh_near(u), t)
            d = tl.where(near, 1.0 - t * t, d)
        return t if K == 0 else (d if K == 1 else (-2.0 * t * d if K == 2 else d * (6.0 * t * t - 2.0)))
    else:  # built on the logistic function s
        e = tl.exp(-tl.abs(u))
        r = 1.0 / (1.0 + e)
        s = tl.where(u < 0, e * r, r)
        d1 = e * r * r
        skew = tl.where(u < 0, 1.0 - e, e - 1.0) * r  # 1 - 2 s
        d2 = d1 * skew
        d3 = d1 * (1.0 - 6.0 * d1)
        if ACT == "sigmoid":
            return s if K == 0 else (d1 if K == 1 else (d2 if K == 2 else d3))
        elif ACT == "softplus":  # PyTorch's threshold: linear above 20
            if K == 0:
                return tl.where(u > 20, u, tl.where(u < 0, zero, u) + _log1p_unit(e))
            return tl.where(u > 20, one if K == 1 else zero, s if K == 1 else (d1 if K == 2 else d2))
        else:
            if K == 0:
                return u * s
            return s + u * d1 if K == 1 else (2.0 * d1 + u * d2 if K == 2 else 3.0 * d2 + u * d3)


@triton.jit
def slope_of_output(y, alpha, gain, ACT: tl.constexpr, K: tl.constexpr):
    """Derivative of order K - 1, in y, of the slope of gain * act written as a function of its output y.

    For tanh and sigmoid gain is 1.
    """
    if ACT == "tanh" or ACT == "sigmoid":
        if K == 1:
            if ACT == "sigmoid":
                return y * (1.0 - y)
            square = y * y  # 1 - y is exact where the square is near 1
            return tl.where(square < 0.5, 1.0 - square, (1.0 - y) * (1.0 + y))
        if K == 2:
            return -2.0 * y if ACT == "tanh" else 1.0 - 2.0 * y
        return tl.full(y.shape, -2.0, y.dtype)
    else:
        return gain * act_derivative(y, alpha, ACT, K)


@triton.jit
def bias_act_derivative(factor, u, alpha, gain, clamp, ACT: tl.constexpr, K: tl.constexpr, CLAMP: tl.constexpr):
    """factor * d^K/du^K clamp(gain * act(u), -clamp, clamp); K = 0 is the value, without factor."""
    v = gain * act_derivative(u, alpha, ACT, K)
    if K == 0:
        if CLAMP:
            v = tl.where(v > clamp, clamp, v)
            v = tl.where(v < -clamp, -clamp, v)
        return v
    v = factor * v
    if CLAMP:
        value = gain * act_derivative(u, alpha, ACT, 0)
        v = tl.where((value >= -clamp) & (value <= clamp), v, tl.full(v.shape, 0.0, v.dtype))
    return v
