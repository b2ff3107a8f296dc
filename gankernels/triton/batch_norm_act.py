"""batch_norm_act and its first derivative in Triton: sums over the channels in one launch, values in another."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import (
    Call,
    Sums,
    affine,
    inverse_root,
    number,
    offsets,
    parameter_grads,
    reduce_moments,
    split_range,
    store_number,
    total_moments,
    total_sum,
)  # fmt: skip

TILE = 2048  # elements that a program works on at once


@triton.jit
def _apply_forward(
    x_ptr, weight_ptr, bias_ptr, given_mean_ptr, given_var_ptr, y_ptr, mean_ptr, invstd_ptr, var_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, splits, rows_a_program, eps: tl.float64, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain, eps = alpha.to(acc), gain.to(acc), eps.to(acc)
    if sums_ptr is None:
        mean = number(given_mean_ptr, channel, inside, 0.0, acc)
        biased = number(given_var_ptr, channel, inside, 1.0, acc)
        unbiased = biased
    else:
        off, squares = total_moments(sums_ptr, channel, inside, rows, channels, rows_a_split, splits, SPLITS)
        mean = tl.load(x_ptr + channel * inner, inside, 0.0).to(acc) + off
        count = tl.cast(rows, acc)
        biased = squares / count
        unbiased = squares / (count - 1.0)
    r = inverse_root(biased + eps)
    if tl.program_id(0) == 0:
        tl.store(mean_ptr + channel, mean, inside)
        tl.store(invstd_ptr + channel, r, inside)
        tl.store(var_ptr + channel, unbiased, inside)
    scale = number(weight_ptr, channel, inside, 1.0, acc) * r
    bias = number(bias_ptr, channel, inside, 0.0, acc)
    begin, end = split_range(rows, rows_a_program, BIG)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc)
        u = (x - mean[None, :]) * scale[None, :] + bias[None, :]
        y = gain * act_derivative(u, alpha, ACT, 0)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask)


@triton.jit
def _reduce_first(
    x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gx_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, splits, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # gx is asked for here where the statistics are given: then it needs no sums.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = affine(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    scale = (weight * r)[None, :]
    sum_d = tl.zeros((ROWS, CHANNELS), acc)
    sum_dx = tl.zeros((ROWS, CHANNELS), acc)
    begin, end = split_range(rows, rows_a_split, BIG)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
        g = tl.load(g_ptr + at, mask).to(acc)
        d = g * (gain * act_derivative(x * scale + bias[None, :], alpha, ACT, 1))
        if gx_ptr is not None:
            tl.store(gx_ptr + at, (scale * d).to(gx_ptr.dtype.element_ty), mask)
        if not EVEN:
            d, x = tl.where(mask, d, 0.0), tl.where(mask, x, 0.0)
        sum_d += d
        sum_dx += d * x
    if sums_ptr is not None:
        to = sums_ptr + tl.program_id(0) * channels + channel
        tl.store(to, tl.sum(sum_d, 0), inside)
        tl.store(to + splits * channels, tl.sum(sum_dx, 0), inside)


@triton.jit
def _apply_first(
    x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gx_ptr, grad_weight_ptr, grad_bias_ptr, sums_ptr,
    rows, channels, inner, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    # The formulas and their names are those of NormBackward in csrc/batch_norm_act.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = affine(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    grad_bias = total_sum(sums_ptr, 0, channel, inside, channels, splits, SPLITS)
    grad_weight = r * total_sum(sums_ptr, 1, channel, inside, channels, splits, SPLITS)
    if tl.program_id(0) == 0:
        store_number(grad_weight_ptr, channel, grad_weight, inside)
        store_number(grad_bias_ptr, channel, grad_bias, inside)
    over = 1.0 / tl.cast(rows, acc)
    scale = (weight * r)[None, :]
    on_x = (-weight * r * r * grad_weight * over)[None, :]
    constant = (-weight * r * grad_bias * over)[None, :]
    begin, end = split_range(rows, rows_a_program, BIG)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
        g = tl.load(g_ptr + at, mask).to(acc)
        d = g * (gain * act_derivative(x * scale + bias[None, :], alpha, ACT, 1))
        tl.store(gx_ptr + at, (scale * d + on_x * x + constant).to(gx_ptr.dtype.element_ty), mask)


def forward(
    x: Tensor, weight, bias, running_mean, running_var, training: bool, eps: float, act: str, alpha: float, gain: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = Call(x, TILE)
    y, mean, invstd, var = call.whole(), *(call.per_channel() for _ in range(3))
    if x.numel():
        sums = call.reduce(reduce_moments, 2) if training else Sums()
        given = (None, None) if training else (running_mean, running_var)
        channels = (t if t is None else t.contiguous() for t in (weight, bias, *given))
        call.apply(
            _apply_forward, sums, *channels, y, mean, invstd, var, rows_too=True, numbers=(eps, alpha, gain), ACT=act
        )
    return y, mean, invstd, var


def backward(
    gy: Tensor, x: Tensor, weight, bias, mean, invstd, training: bool, act: str, alpha: float, gain: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call, parameters = Call(x, TILE), wanted[1] or wanted[2]
    gx, gw, gb = call.whole(wanted[0]), call.per_channel(wanted[1], weight), call.per_channel(wanted[2], bias)
    if x.numel() and any(wanted):
        channels = (t if t is None else t.contiguous() for t in (weight, bias, mean, invstd))
        inputs, numbers = (call.dense(gy), *channels), (alpha, gain)
        terms = 2 if training or parameters else 0
        sums = call.reduce(_reduce_first, terms, *inputs, None if training else gx, numbers=numbers, ACT=act)
        if training and wanted[0]:
            call.apply(_apply_first, sums, *inputs, gx, gw, gb, numbers=numbers, ACT=act)
        elif parameters:
            parameter_grads(call, sums, invstd, gw, gb)
    return call.or_none(gx, x), call.or_none(gw, weight), call.or_none(gb, bias)
