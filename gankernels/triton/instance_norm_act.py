"""instance_norm_act in Triton where a program holds a channel of a sample: one launch, which reads each tensor once."""

from __future__ import annotations

import triton
import triton.language as tl

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import (
    affine,
    first_of,
    inverse_root,
    number,
    offsets,
    split_range,
    store_number,
    strip_of,
)

MOST_FORWARD, MOST_FIRST = 16384, 8192  # elements that a program holds of each tensor


@triton.jit
def whole_forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, invstd_ptr, rows, channels, inner, eps: tl.float64, alpha: tl.float64,
    gain: tl.float64, ACT: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain, eps = alpha.to(acc), gain.to(acc), eps.to(acc)
    begin, end, group = split_range(rows, rows, channels, BIG, CHANNELS)
    cell = group * channels + channel
    row = begin + tl.arange(0, ROWS)
    at = offsets(row, channel, channels, inner)
    mask = None if EVEN else (row < end)[:, None] & inside[None, :]
    count = tl.cast(rows, acc)
    first = first_of(x_ptr, group, channel, inside, rows, channels, inner).to(acc)
    x = tl.load(x_ptr + at, mask).to(acc) - first[None, :]
    if not EVEN:
        x = tl.where(mask, x, 0.0)
    off = tl.sum(x, 0) / count
    x -= off[None, :]
    squares = x * x if EVEN else tl.where(mask, x * x, 0.0)
    r = inverse_root(tl.sum(squares, 0) / count + eps)
    tl.store(mean_ptr + cell, first + off, inside)
    tl.store(invstd_ptr + cell, r, inside)
    if y_ptr is not None:
        scale = number(weight_ptr, cell, inside, 1.0, acc) * r
        bias = number(bias_ptr, cell, inside, 0.0, acc)
        y = gain * act_derivative(x * scale[None, :] + bias[None, :], alpha, ACT, 0)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask)


@triton.jit
def whole_first(
    x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gx_ptr, grad_weight_ptr, grad_bias_ptr,
    rows, channels, inner, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The formulas and their names are those of NormBackward in csrc/batch_norm_act.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows, channels, BIG, CHANNELS)
    cell, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, False, acc
    )
    row = begin + tl.arange(0, ROWS)
    at = offsets(row, channel, channels, inner)
    mask = None if EVEN else (row < end)[:, None] & inside[None, :]
    x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
    g = tl.load(g_ptr + at, mask).to(acc)
    scale = (weight * r)[None, :]
    d = g * (gain * act_derivative(x * scale + bias[None, :], alpha, ACT, 1))
    if not EVEN:
        d, x = tl.where(mask, d, 0.0), tl.where(mask, x, 0.0)
    grad_bias, grad_weight = tl.sum(d, 0), r * tl.sum(d * x, 0)
    store_number(grad_weight_ptr, cell, grad_weight, inside)
    store_number(grad_bias_ptr, cell, grad_bias, inside)
    if gx_ptr is not None:
        over = 1.0 / tl.cast(rows, acc)
        on_x = (-r * r * weight * grad_weight * over)[None, :]
        constant = (-r * weight * grad_bias * over)[None, :]
        tl.store(gx_ptr + at, (scale * d + on_x * x + constant).to(gx_ptr.dtype.element_ty), mask)
