"""The second derivative of the normalisations in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import (
    Call,
    affine,
    number,
    offsets,
    parameter_grads,
    split_of,
    split_range,
    splits_of,
    store_number,
    strip_of,
)  # fmt: skip
from gankernels.triton.norm_sets import (
    cell_sums,
    close_set,
    combine,
    combine_second,
    from_set,
    kind_of,
    set_of_sums,
    shared_numbers,
)

_TILE = 512  # elements that a program works on at once, with ten sums for each


@triton.jit
def _reduce_second(
    x_ptr, g_ptr, v_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, alpha: tl.float64, gain: tl.float64, SHARED: tl.constexpr,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    _, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, SHARED, acc
    )
    zero = tl.zeros((ROWS, CHANNELS), acc)
    sum_d, sum_dx, sum_v, sum_vx, sum_dv = zero, zero, zero, zero, zero
    sum_h, sum_hx, sum_hxx, sum_hv, sum_hvx = zero, zero, zero, zero, zero
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
        g = tl.load(g_ptr + at, mask).to(acc)
        v = zero
        if v_ptr is not None:
            v = tl.load(v_ptr + at, mask).to(acc)
        u = x * (weight * r)[None, :] + bias[None, :]
        d = g * (gain * act_derivative(u, alpha, ACT, 1))
        if not EVEN:
            d, x, v = tl.where(mask, d, 0.0), tl.where(mask, x, 0.0), tl.where(mask, v, 0.0)
        sum_d += d
        sum_dx += d * x
        sum_v += v
        sum_vx += v * x
        sum_dv += d * v
        if SMOOTH:
            h = g * (gain * act_derivative(u, alpha, ACT, 2))
            if not EVEN:
                h = tl.where(mask, h, 0.0)
            sum_h += h
            sum_hx += h * x
            sum_hxx += h * x * x
            sum_hv += h * v
            sum_hvx += h * v * x
    to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
    term = splits_of(channels, CHANNELS) * channels
    tl.store(to, tl.sum(sum_d, 0), inside)
    tl.store(to + term, tl.sum(sum_dx, 0), inside)
    tl.store(to + 2 * term, tl.sum(sum_v, 0), inside)
    tl.store(to + 3 * term, tl.sum(sum_vx, 0), inside)
    tl.store(to + 4 * term, tl.sum(sum_dv, 0), inside)
    if SMOOTH:
        tl.store(to + 5 * term, tl.sum(sum_h, 0), inside)
        tl.store(to + 6 * term, tl.sum(sum_hx, 0), inside)
        tl.store(to + 7 * term, tl.sum(sum_hxx, 0), inside)
        tl.store(to + 8 * term, tl.sum(sum_hv, 0), inside)
        tl.store(to + 9 * term, tl.sum(sum_hvx, 0), inside)


@triton.jit
def _given_second(
    x_ptr, g_ptr, v_ptr, p_ptr, q_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gg_ptr, gx_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, alpha: tl.float64, gain: tl.float64, SHARED: tl.constexpr,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    # With given statistics nothing that is written needs a sum; the sums are the gradients of bias and of weight / r.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    cell, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, SHARED, acc
    )
    scale = (weight * r)[None, :]
    on_x = (number(p_ptr, cell, inside, 0.0, acc) * r)[None, :]
    q = number(q_ptr, cell, inside, 0.0, acc)[None, :]
    zero = tl.zeros((ROWS, CHANNELS), acc)
    sum_bias, sum_weight = zero, zero
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
        g = tl.load(g_ptr + at, mask).to(acc)
        v = zero
        if v_ptr is not None:
            v = tl.load(v_ptr + at, mask).to(acc)
        u = x * scale + bias[None, :]
        first = gain * act_derivative(u, alpha, ACT, 1)
        t = scale * v + on_x * x + q
        gx, for_bias, for_weight = on_x * (g * first), zero, g * first * v
        if SMOOTH:
            for_bias = g * (gain * act_derivative(u, alpha, ACT, 2)) * t
            for_weight += for_bias * x
            gx += scale * for_bias
        if gg_ptr is not None:
            tl.store(gg_ptr + at, (first * t).to(gg_ptr.dtype.element_ty), mask)
        if gx_ptr is not None:
            tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask)
        if not EVEN:
            for_bias, for_weight = tl.where(mask, for_bias, 0.0), tl.where(mask, for_weight, 0.0)
        sum_bias += for_bias
        sum_weight += for_weight
    if sums_ptr is not None:
        to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
        tl.store(to, tl.sum(sum_bias, 0), inside)
        tl.store(to + splits_of(channels, CHANNELS) * channels, tl.sum(sum_weight, 0), inside)


@triton.jit
def _apply_second(
    x_ptr, g_ptr, v_ptr, p_ptr, q_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gg_ptr, gx_ptr, grad_weight_ptr,
    grad_bias_ptr, sums_ptr, rows, channels, inner, groups, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    SHARED: tl.constexpr, ACT: tl.constexpr, SMOOTH: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The formulas and their names are those of NormSecond in csrc/batch_norm_act.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    cell, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, SHARED, acc
    )
    p, q = number(p_ptr, cell, inside, 0.0, acc), number(q_ptr, cell, inside, 0.0, acc)
    scale = weight * r
    if SHARED:  # sums: what combine_second left
        v_mean, v_slope, on_v, on_x, constant = shared_numbers(sums_ptr, channel, inside, channels)
        t_on_x, t_constant = (p - scale * v_slope) * r, q - scale * v_mean
    else:
        d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope = set_of_sums(
            sums_ptr, group, groups, channel, inside, channels, splits, weight, p, SPLITS
        )
        over = 1.0 / tl.cast(rows, acc)
        d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope = close_set(
            d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, over, r
        )
        t_on_x, t_constant = (p - scale * v_slope) * r, q - scale * v_mean
        e, e_slope, grad_weight = cell_sums(
            sums_ptr, group, groups, channel, inside, channels, splits, scale, t_on_x, t_constant, v_mean, v_slope, r,
            SMOOTH, SPLITS,
        )  # fmt: skip
        if begin == group * rows:
            store_number(grad_weight_ptr, cell, grad_weight, inside)
            store_number(grad_bias_ptr, cell, e, inside)
        on_v, on_x, constant = from_set(
            d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, weight * e * over, weight * e_slope * over, r
        )
    if gg_ptr is not None or gx_ptr is not None:
        for start in range(begin, end, ROWS):
            row = start + tl.arange(0, ROWS)
            at = offsets(row, channel, channels, inner)
            mask = None if EVEN else (row < end)[:, None] & inside[None, :]
            x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
            g = tl.load(g_ptr + at, mask).to(acc)
            v = tl.zeros((ROWS, CHANNELS), acc)
            if v_ptr is not None:
                v = tl.load(v_ptr + at, mask).to(acc)
            u = x * scale[None, :] + bias[None, :]
            first = gain * act_derivative(u, alpha, ACT, 1)
            t = scale[None, :] * v + t_on_x[None, :] * x + t_constant[None, :]
            if gg_ptr is not None:
                tl.store(gg_ptr + at, (first * t).to(gg_ptr.dtype.element_ty), mask)
            if gx_ptr is not None:
                gx = t_on_x[None, :] * (g * first) + on_v[None, :] * v + on_x[None, :] * x + constant[None, :]
                if SMOOTH:
                    gx += scale[None, :] * (g * (gain * act_derivative(u, alpha, ACT, 2))) * t
                tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask)


def double_backward(
    v, p, q, gy: Tensor, x: Tensor, weight, bias, mean, invstd, training: bool, act: str, alpha: float, gain: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    kind = kind_of(x, weight, bias, mean)
    if kind == "pixels":
        from gankernels.triton import spade_norm

        return spade_norm.double_backward(
            v, p, q, gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted
        )
    call, parameters, shared = Call(x, _TILE, kind), wanted[2] or wanted[3], kind == "samples"
    gg, gx = call.like_x(wanted[0]), call.like_x(wanted[1])
    gw, gb = (call.numbers(kind != "one", w, t) for w, t in zip(wanted[2:], (weight, bias), strict=True))
    if x.numel() and any(wanted):
        g, v = call.dense(gy), call.dense(v)
        p, q, *numbers = (t if t is None else t.contiguous() for t in (p, q, weight, bias, mean, invstd))
        smooth = act not in ("linear", "relu", "lrelu")
        settings = {"numbers": (alpha, gain), "ACT": act, "SMOOTH": smooth, "SHARED": shared}
        if training:
            sums, grads, writes = (
                call.reduce(_reduce_second, 10 if smooth else 5, g, v, *numbers, **settings),
                (gw, gb),
                wanted[0] or wanted[1],
            )
            if shared:
                tensors = (numbers[0], p, q, numbers[3], *grads)
                sums, grads = combine(call, combine_second, sums, 5, *tensors, SMOOTH=smooth), (None, None)
            if writes or not shared:
                call.apply(_apply_second, sums, g, v, p, q, *numbers, gg, gx, *grads, writes=writes, **settings)
        else:
            terms = 2 if parameters else 0
            sums = call.reduce(_given_second, terms, g, v, p, q, *numbers, gg, gx, **settings)
            if parameters:
                parameter_grads(call, sums, invstd, gw, gb, shared)
    return call.or_none(gg, x), call.or_none(gx, x), call.or_none(gw, weight), call.or_none(gb, bias)
