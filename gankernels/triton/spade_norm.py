"""spade_norm in Triton: batch_norm_act's launches, with 1 + scale and shift for each element.

The formulas and their names are those of NormBackward and NormSecond in csrc/batch_norm_act.h. With given statistics
nothing is summed, and every derivative is one launch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import (
    Call,
    Sums,
    first_of,
    inverse_root,
    number,
    offsets,
    reduce_moments,
    split_of,
    split_range,
    splits_of,
    strip_of,
    total_moments,
    total_sum,
)
from gankernels.triton.norm_sets import close_set, from_set

_TILE, _TILE_SECOND = 2048, 512  # elements that a program works on at once


@triton.jit
def _load(ptr, at, mask, acc: tl.constexpr):
    return tl.load(ptr + at, mask).to(acc)


@triton.jit
def _load_or_zero(ptr, at, mask, like):
    if ptr is None:
        return tl.zeros_like(like)
    else:
        return tl.load(ptr + at, mask).to(like.dtype)


@triton.jit
def _store(ptr, at, value, mask):
    if ptr is not None:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def _apply_forward(
    x_ptr, scale_ptr, shift_ptr, given_mean_ptr, given_var_ptr, y_ptr, mean_ptr, invstd_ptr, var_ptr, sums_ptr,
    rows, channels, inner, groups, rows_a_split, splits, rows_a_program, eps: tl.float64, alpha: tl.float64,
    gain: tl.float64, ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain, eps = alpha.to(acc), gain.to(acc), eps.to(acc)
    begin, end, _ = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    if sums_ptr is None:
        mean = number(given_mean_ptr, channel, inside, 0.0, acc)
        biased = number(given_var_ptr, channel, inside, 1.0, acc)
        unbiased = biased
    else:
        off, squares = total_moments(sums_ptr, 0, 1, channel, inside, rows, channels, rows_a_split, splits, SPLITS)
        mean = first_of(x_ptr, 0, channel, inside, rows, channels, inner).to(acc) + off
        count = tl.cast(rows, acc)
        biased = squares / count
        unbiased = squares / (count - 1.0)
    r = inverse_root(biased + eps)
    if begin == 0:
        tl.store(mean_ptr + channel, mean, inside)
        tl.store(invstd_ptr + channel, r, inside)
        tl.store(var_ptr + channel, unbiased, inside)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        xh = (_load(x_ptr, at, mask, acc) - mean[None, :]) * r[None, :]
        u = (1.0 + _load(scale_ptr, at, mask, acc)) * xh + _load(shift_ptr, at, mask, acc)
        _store(y_ptr, at, gain * act_derivative(u, alpha, ACT, 0), mask)


@triton.jit
def _point(x_ptr, g_ptr, scale_ptr, shift_ptr, at, mask, mean, r, acc: tl.constexpr):
    """(x - mean, 1 + scale, the activation's argument, cotangent) of a tile."""
    centred = _load(x_ptr, at, mask, acc) - mean[None, :]
    weight = 1.0 + _load(scale_ptr, at, mask, acc)
    u = weight * (centred * r[None, :]) + _load(shift_ptr, at, mask, acc)
    return centred, weight, u, _load(g_ptr, at, mask, acc)


@triton.jit
def _reduce_first(
    x_ptr, g_ptr, scale_ptr, shift_ptr, mean_ptr, invstd_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r = number(mean_ptr, channel, inside, 0.0, acc), number(invstd_ptr, channel, inside, 1.0, acc)
    sum_d, sum_dx = tl.zeros((ROWS, CHANNELS), acc), tl.zeros((ROWS, CHANNELS), acc)
    begin, end, _ = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        centred, weight, u, g = _point(x_ptr, g_ptr, scale_ptr, shift_ptr, at, mask, mean, r, acc)
        d = weight * (g * (gain * act_derivative(u, alpha, ACT, 1)))
        if not EVEN:
            d, centred = tl.where(mask, d, 0.0), tl.where(mask, centred, 0.0)
        sum_d += d
        sum_dx += d * centred
    to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
    tl.store(to, tl.sum(sum_d, 0), inside)
    tl.store(to + splits_of(channels, CHANNELS) * channels, tl.sum(sum_dx, 0), inside)


@triton.jit
def _apply_first(
    x_ptr, g_ptr, scale_ptr, shift_ptr, mean_ptr, invstd_ptr, gx_ptr, gscale_ptr, gshift_ptr, sums_ptr,
    rows, channels, inner, groups, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r = number(mean_ptr, channel, inside, 0.0, acc), number(invstd_ptr, channel, inside, 1.0, acc)
    on_x, constant = tl.zeros((CHANNELS,), acc), tl.zeros((CHANNELS,), acc)
    if sums_ptr is not None:
        over = 1.0 / tl.cast(rows, acc)
        constant = -r * over * total_sum(sums_ptr, 0, 0, 1, channel, inside, channels, splits, SPLITS)
        on_x = -r * r * r * over * total_sum(sums_ptr, 1, 0, 1, channel, inside, channels, splits, SPLITS)
    begin, end, _ = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        centred, weight, u, g = _point(x_ptr, g_ptr, scale_ptr, shift_ptr, at, mask, mean, r, acc)
        d = g * (gain * act_derivative(u, alpha, ACT, 1))
        _store(gx_ptr, at, r[None, :] * weight * d + on_x[None, :] * centred + constant[None, :], mask)
        _store(gscale_ptr, at, d * (centred * r[None, :]), mask)
        _store(gshift_ptr, at, d, mask)


@triton.jit
def _reduce_second(
    x_ptr, g_ptr, scale_ptr, shift_ptr, v_ptr, p_ptr, q_ptr, mean_ptr, invstd_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r = number(mean_ptr, channel, inside, 0.0, acc), number(invstd_ptr, channel, inside, 1.0, acc)
    zero = tl.zeros((ROWS, CHANNELS), acc)
    sum_d, sum_dx, sum_v, sum_vx, sum_dv, sum_pd, sum_pdx = zero, zero, zero, zero, zero, zero, zero
    sum_h, sum_hx, sum_hxx, sum_hv, sum_hvx, sum_k, sum_kx = zero, zero, zero, zero, zero, zero, zero
    begin, end, _ = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x, weight, u, g = _point(x_ptr, g_ptr, scale_ptr, shift_ptr, at, mask, mean, r, acc)
        v, p = _load_or_zero(v_ptr, at, mask, x), _load_or_zero(p_ptr, at, mask, x)
        d = g * (gain * act_derivative(u, alpha, ACT, 1))
        if not EVEN:
            d, x, v = tl.where(mask, d, 0.0), tl.where(mask, x, 0.0), tl.where(mask, v, 0.0)
            weight, p = tl.where(mask, weight, 0.0), tl.where(mask, p, 0.0)
        sum_d += weight * d
        sum_dx += weight * d * x
        sum_v += v
        sum_vx += v * x
        sum_dv += weight * d * v
        sum_pd += p * d
        sum_pdx += p * d * x
        if SMOOTH:
            q = _load_or_zero(q_ptr, at, mask, x)
            h = weight * (g * (gain * act_derivative(u, alpha, ACT, 2)))
            if not EVEN:
                h, q = tl.where(mask, h, 0.0), tl.where(mask, q, 0.0)
            k = h * (p * (r[None, :] * x) + q)
            h *= weight
            sum_h += h
            sum_hx += h * x
            sum_hxx += h * x * x
            sum_hv += h * v
            sum_hvx += h * v * x
            sum_k += k
            sum_kx += k * x
    to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
    term = splits_of(channels, CHANNELS) * channels
    tl.store(to, tl.sum(sum_d, 0), inside)
    tl.store(to + term, tl.sum(sum_dx, 0), inside)
    tl.store(to + 2 * term, tl.sum(sum_v, 0), inside)
    tl.store(to + 3 * term, tl.sum(sum_vx, 0), inside)
    tl.store(to + 4 * term, tl.sum(sum_dv, 0), inside)
    tl.store(to + 5 * term, tl.sum(sum_pd, 0), inside)
    tl.store(to + 6 * term, tl.sum(sum_pdx, 0), inside)
    if SMOOTH:
        tl.store(to + 7 * term, tl.sum(sum_h, 0), inside)
        tl.store(to + 8 * term, tl.sum(sum_hx, 0), inside)
        tl.store(to + 9 * term, tl.sum(sum_hxx, 0), inside)
        tl.store(to + 10 * term, tl.sum(sum_hv, 0), inside)
        tl.store(to + 11 * term, tl.sum(sum_hvx, 0), inside)
        tl.store(to + 12 * term, tl.sum(sum_k, 0), inside)
        tl.store(to + 13 * term, tl.sum(sum_kx, 0), inside)


@triton.jit
def _sum_of(sums_ptr, term, channel, inside, channels, splits, SPLITS: tl.constexpr):
    return total_sum(sums_ptr, term, 0, 1, channel, inside, channels, splits, SPLITS)


@triton.jit
def _apply_second(
    x_ptr, g_ptr, scale_ptr, shift_ptr, v_ptr, p_ptr, q_ptr, mean_ptr, invstd_ptr, gg_ptr, gx_ptr, gscale_ptr,
    gshift_ptr, sums_ptr, rows, channels, inner, groups, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r = number(mean_ptr, channel, inside, 0.0, acc), number(invstd_ptr, channel, inside, 1.0, acc)
    zero = tl.zeros((CHANNELS,), acc)
    v_mean, v_slope, on_v, on_x, constant = zero, zero, zero, zero, zero
    if sums_ptr is not None:
        over = 1.0 / tl.cast(rows, acc)
        d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope = close_set(
            _sum_of(sums_ptr, 0, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 1, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 2, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 3, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 4, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 5, channel, inside, channels, splits, SPLITS),
            _sum_of(sums_ptr, 6, channel, inside, channels, splits, SPLITS),
            over,
            r,
        )
        e_mean, e_slope = zero, zero
        if SMOOTH:
            h = _sum_of(sums_ptr, 7, channel, inside, channels, splits, SPLITS)
            hx = _sum_of(sums_ptr, 8, channel, inside, channels, splits, SPLITS)
            hxx = _sum_of(sums_ptr, 9, channel, inside, channels, splits, SPLITS)
            hv = _sum_of(sums_ptr, 10, channel, inside, channels, splits, SPLITS)
            hvx = _sum_of(sums_ptr, 11, channel, inside, channels, splits, SPLITS)
            k = _sum_of(sums_ptr, 12, channel, inside, channels, splits, SPLITS)
            kx = _sum_of(sums_ptr, 13, channel, inside, channels, splits, SPLITS)
            e_mean = over * (r * (hv - v_mean * h - v_slope * r * hx) + k)
            e_slope = over * r * (r * (hvx - v_mean * hx - v_slope * r * hxx) + kx)
        on_v, on_x, constant = from_set(d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, e_mean, e_slope, r)
    begin, end, _ = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x, weight, u, g = _point(x_ptr, g_ptr, scale_ptr, shift_ptr, at, mask, mean, r, acc)
        v, p = _load_or_zero(v_ptr, at, mask, x), _load_or_zero(p_ptr, at, mask, x)
        slope = gain * act_derivative(u, alpha, ACT, 1)
        pv = r[None, :] * (v - v_mean[None, :] - (r * v_slope)[None, :] * x)
        t = weight * pv + p * (r[None, :] * x) + _load_or_zero(q_ptr, at, mask, x)
        d, ht = g * slope, tl.zeros_like(t)
        if SMOOTH:
            ht = g * (gain * act_derivative(u, alpha, ACT, 2)) * t
        gx = r[None, :] * (weight * ht + (p - weight * (r * v_slope)[None, :]) * d)
        gx += on_v[None, :] * v + on_x[None, :] * x + constant[None, :]
        _store(gg_ptr, at, slope * t, mask)
        _store(gx_ptr, at, gx, mask)
        _store(gscale_ptr, at, d * pv + ht * (r[None, :] * x), mask)
        _store(gshift_ptr, at, ht, mask)


def forward(
    x: Tensor, scale: Tensor, shift: Tensor, running_mean, running_var, training: bool, eps: float, act: str,
    alpha: float, gain: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = Call(x, _TILE)
    y, mean, invstd, var = call.like_x(), *(call.numbers(False) for _ in range(3))
    if x.numel():
        sums = call.reduce(reduce_moments, 2) if training else Sums()
        given = (None, None) if training else (running_mean.contiguous(), running_var.contiguous())
        tensors = (call.dense(scale), call.dense(shift), *given, y, mean, invstd, var)
        call.apply(_apply_forward, sums, *tensors, rows_too=True, numbers=(eps, alpha, gain), ACT=act)
    return y, mean, invstd, var


def backward(
    gy: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean, invstd, training: bool, act: str, alpha: float,
    gain: float, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = Call(x, _TILE)
    out = [call.like_x(w) for w in wanted]
    if x.numel() and any(wanted):
        inputs = (call.dense(gy), call.dense(scale), call.dense(shift), mean.contiguous(), invstd.contiguous())
        settings = {"numbers": (alpha, gain), "ACT": act}
        sums = call.reduce(_reduce_first, 2, *inputs, **settings) if training and wanted[0] else Sums()
        call.apply(_apply_first, sums, *inputs, *out, **settings)
    return tuple(call.or_none(t, x) for t in out)


def double_backward(
    v, p, q, gy: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean, invstd, training: bool, act: str, alpha: float,
    gain: float, wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = Call(x, _TILE_SECOND)
    out = [call.like_x(w) for w in wanted]
    if x.numel() and any(wanted):
        smooth = act not in ("linear", "relu", "lrelu")
        inputs = (*(call.dense(t) for t in (gy, scale, shift, v, p, q)), mean.contiguous(), invstd.contiguous())
        settings = {"numbers": (alpha, gain), "ACT": act, "SMOOTH": smooth}
        sums = call.reduce(_reduce_second, 14 if smooth else 7, *inputs, **settings) if training else Sums()
        call.apply(_apply_second, sums, *inputs, *out, **settings)
    return tuple(call.or_none(t, x) for t in out)
