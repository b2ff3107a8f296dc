"""The normalisations and their first derivative in Triton: sums over the channels in one launch, values in another.

Where the cells of a channel share statistics but not weights (SHARED) a small launch between the two adds them up.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import (
    Call,
    Sums,
    affine,
    first_of,
    inverse_root,
    number,
    offsets,
    parameter_grads,
    reduce_moments,
    split_of,
    split_range,
    splits_of,
    store_number,
    strip_of,
    total_moments,
    total_sum,
)  # fmt: skip
from gankernels.triton.instance_norm_act import MOST_FIRST, MOST_FORWARD, whole_first, whole_forward
from gankernels.triton.norm_sets import (
    combine,
    combine_first,
    kind_of,
)

TILE = 2048  # elements that a program works on at once


@triton.jit
def _apply_forward(
    x_ptr, weight_ptr, bias_ptr, given_mean_ptr, given_var_ptr, y_ptr, mean_ptr, invstd_ptr, var_ptr, sums_ptr,
    rows, channels, inner, groups, rows_a_split, splits, rows_a_program, eps: tl.float64, alpha: tl.float64,
    gain: tl.float64, SHARED: tl.constexpr, ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Where SHARED the sums were taken over all groups as one.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain, eps = alpha.to(acc), gain.to(acc), eps.to(acc)
    begin, end, group = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    cell = group * channels + channel
    own = channel if SHARED else cell
    if sums_ptr is None:
        mean = number(given_mean_ptr, own, inside, 0.0, acc)
        biased = number(given_var_ptr, own, inside, 1.0, acc)
        unbiased = biased
    else:
        if SHARED:
            of, sets, size = 0, 1, rows * groups
        else:
            of, sets, size = group, groups, rows
        off, squares = total_moments(sums_ptr, of, sets, channel, inside, size, channels, rows_a_split, splits, SPLITS)
        mean = first_of(x_ptr, of, channel, inside, rows, channels, inner).to(acc) + off
        count = tl.cast(size, acc)
        biased = squares / count
        unbiased = squares / (count - 1.0)
    r = inverse_root(biased + eps)
    if begin == (0 if SHARED else group * rows):
        tl.store(mean_ptr + own, mean, inside)
        tl.store(invstd_ptr + own, r, inside)
        store_number(var_ptr, own, unbiased, inside)
    if y_ptr is not None:
        scale = number(weight_ptr, cell, inside, 1.0, acc) * r
        bias = number(bias_ptr, cell, inside, 0.0, acc)
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
    rows, channels, inner, rows_a_split, alpha: tl.float64, gain: tl.float64, SHARED: tl.constexpr,
    ACT: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # gx is asked for here where the statistics are given: then it needs no sums.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    _, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, SHARED, acc
    )
    scale = (weight * r)[None, :]
    sum_d = tl.zeros((ROWS, CHANNELS), acc)
    sum_dx = tl.zeros((ROWS, CHANNELS), acc)
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
        to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
        tl.store(to, tl.sum(sum_d, 0), inside)
        tl.store(to + splits_of(channels, CHANNELS) * channels, tl.sum(sum_dx, 0), inside)


@triton.jit
def _apply_first(
    x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gx_ptr, grad_weight_ptr, grad_bias_ptr, sums_ptr,
    rows, channels, inner, groups, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    SHARED: tl.constexpr, ACT: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The formulas and their names are those of NormBackward in csrc/batch_norm_act.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    begin, end, group = split_range(rows, rows_a_program, channels, BIG, CHANNELS)
    cell, mean, r, weight, bias = affine(
        mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels, SHARED, acc
    )
    if SHARED:  # sums: what combine_first left
        set_mean = tl.load(sums_ptr + channel, inside, 0.0)
        set_slope = tl.load(sums_ptr + channels + channel, inside, 0.0)
    else:
        grad_bias = total_sum(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
        grad_weight = r * total_sum(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
        if begin == group * rows:
            store_number(grad_weight_ptr, cell, grad_weight, inside)
            store_number(grad_bias_ptr, cell, grad_bias, inside)
        over = 1.0 / tl.cast(rows, acc)
        set_mean, set_slope = weight * grad_bias * over, weight * grad_weight * over
    scale = (weight * r)[None, :]
    on_x, constant = (-r * r * set_slope)[None, :], (-r * set_mean)[None, :]
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
    kind = kind_of(x, weight, bias)
    if kind == "pixels":
        from gankernels.triton import spade_norm

        return spade_norm.forward(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain)
    call = Call(x, TILE, kind)
    y, mean, invstd, var = call.like_x(), *(call.numbers(False) for _ in range(3))
    if x.numel():
        # Moments of a channel are those of all its samples, whatever is a sample's own.
        sums = Call(x, TILE).reduce(reduce_moments, 2) if training else Sums()
        given = (None, None) if training else (running_mean, running_var)
        channels = (t if t is None else t.contiguous() for t in (weight, bias, *given))
        numbers = (eps, alpha, gain)
        call.apply(
            _apply_forward, sums, *channels, y, mean, invstd, var, rows_too=True, numbers=numbers, ACT=act,
            SHARED=kind == "samples",
        )  # fmt: skip
    return y, mean, invstd, var


def instance(
    x: Tensor, weight, bias, eps: float, act: str, alpha: float, gain: float, writes: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Statistics of each sample; (None, mean, 1 / deviation) unless `writes`."""
    call = Call(x, TILE, "instances")
    y, mean, invstd = call.like_x(writes), call.numbers(True), call.numbers(True)
    if x.numel():
        cells = [t if t is None else t.contiguous() for t in (weight, bias)]
        numbers = (eps, alpha, gain)
        if not call.whole(whole_forward, *cells, y, mean, invstd, numbers=numbers, most=MOST_FORWARD, ACT=act):
            sums = call.reduce(reduce_moments, 2)
            call.apply(
                _apply_forward, sums, *cells, None, None, y, mean, invstd, None, rows_too=True, writes=writes,
                numbers=numbers, ACT=act, SHARED=False,
            )  # fmt: skip
    return y, mean, invstd


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    _, mean, invstd = instance(x, None, None, eps, "linear", 0.0, 1.0, writes=False)
    return mean, invstd.reciprocal() if x.numel() else invstd


def backward(
    gy: Tensor, x: Tensor, weight, bias, mean, invstd, training: bool, act: str, alpha: float, gain: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    kind = kind_of(x, weight, bias, mean)
    if kind == "pixels":
        from gankernels.triton import spade_norm

        return spade_norm.backward(gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted)
    call, parameters, shared = Call(x, TILE, kind), wanted[1] or wanted[2], kind == "samples"
    gx, gw, gb = (
        call.like_x(wanted[0]),
        *(call.numbers(kind != "one", w, t) for w, t in zip(wanted[1:], (weight, bias), strict=True)),
    )
    if x.numel() and any(wanted):
        numbers = [t if t is None else t.contiguous() for t in (weight, bias, mean, invstd)]
        inputs, settings = (call.dense(gy), *numbers), {"numbers": (alpha, gain), "ACT": act, "SHARED": shared}
        if kind == "instances" and call.whole(
            whole_first, *inputs, gx, gw, gb, numbers=(alpha, gain), most=MOST_FIRST, ACT=act
        ):
            return call.or_none(gx, x), call.or_none(gw, weight), call.or_none(gb, bias)
        terms = 2 if training or parameters else 0
        sums = call.reduce(_reduce_first, terms, *inputs, None if training else gx, **settings)
        if training and wanted[0]:
            grads = (gw, gb)
            if shared:
                sums, grads = combine(call, combine_first, sums, 2, numbers[0], numbers[3], *grads), (None, None)
            call.apply(_apply_first, sums, *inputs, gx, *grads, **settings)
        elif parameters:
            parameter_grads(call, sums, invstd, gw, gb, shared)
    return call.or_none(gx, x), call.or_none(gw, weight), call.or_none(gb, bias)
