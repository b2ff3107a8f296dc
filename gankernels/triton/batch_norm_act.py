"""batch_norm_act in Triton: statistics or the sums of a derivative in one launch, what follows from them in another."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.activations import act_derivative
from gankernels.triton.channel_sums import Plan, number, offsets, reduce_moments, split_range, total_moments, total_sum

_TILE, _TILE_SECOND = 2048, 512  # elements of a program; a second derivative has ten sums for each


@triton.jit
def _channels(mean_ptr, spread_ptr, weight_ptr, bias_ptr, channel, inside, acc: tl.constexpr):
    weight = number(weight_ptr, channel, inside, 1.0, acc)
    r = number(spread_ptr, channel, inside, 1.0, acc)
    return number(mean_ptr, channel, inside, 0.0, acc), r, weight, number(bias_ptr, channel, inside, 0.0, acc)


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
    r = 1.0 / tl.sqrt(biased + eps)
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
    # With given statistics gx needs no sums and is written here.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = _channels(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    sum_d = tl.zeros((ROWS, CHANNELS), acc)
    sum_dx = tl.zeros((ROWS, CHANNELS), acc)
    begin, end = split_range(rows, rows_a_split, BIG)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        mask = None if EVEN else (row < end)[:, None] & inside[None, :]
        x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
        g = tl.load(g_ptr + at, mask).to(acc)
        u = x * (weight * r)[None, :] + bias[None, :]
        d = g * (gain * act_derivative(u, alpha, ACT, 1))
        if gx_ptr is not None:
            tl.store(gx_ptr + at, ((weight * r)[None, :] * d).to(gx_ptr.dtype.element_ty), mask)
        if not EVEN:
            d = tl.where(mask, d, 0.0)
            x = tl.where(mask, x, 0.0)
        sum_d += d
        sum_dx += d * x
    to = sums_ptr + tl.program_id(0) * channels + channel
    tl.store(to, tl.sum(sum_d, 0), inside)
    tl.store(to + splits * channels, tl.sum(sum_dx, 0), inside)


@triton.jit
def _apply_first(
    x_ptr, g_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gx_ptr, grad_weight_ptr, grad_bias_ptr, sums_ptr,
    rows, channels, inner, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, BATCH: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = _channels(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    scale = weight * r
    on_x = tl.zeros((CHANNELS,), acc)
    constant = tl.zeros((CHANNELS,), acc)
    if sums_ptr is not None:
        grad_bias = total_sum(sums_ptr, 0, channel, inside, channels, splits, SPLITS)
        grad_weight = r * total_sum(sums_ptr, 1, channel, inside, channels, splits, SPLITS)
        if BATCH:
            over = 1.0 / tl.cast(rows, acc)
            on_x = -scale * r * grad_weight * over
            constant = -scale * grad_bias * over
        if tl.program_id(0) == 0:
            if grad_weight_ptr is not None:
                tl.store(grad_weight_ptr + channel, grad_weight.to(grad_weight_ptr.dtype.element_ty), inside)
            if grad_bias_ptr is not None:
                tl.store(grad_bias_ptr + channel, grad_bias.to(grad_bias_ptr.dtype.element_ty), inside)
    if gx_ptr is not None:
        begin, end = split_range(rows, rows_a_program, BIG)
        for start in range(begin, end, ROWS):
            row = start + tl.arange(0, ROWS)
            at = offsets(row, channel, channels, inner)
            mask = None if EVEN else (row < end)[:, None] & inside[None, :]
            x = tl.load(x_ptr + at, mask).to(acc) - mean[None, :]
            g = tl.load(g_ptr + at, mask).to(acc)
            u = x * scale[None, :] + bias[None, :]
            d = g * (gain * act_derivative(u, alpha, ACT, 1))
            gx = scale[None, :] * d + on_x[None, :] * x + constant[None, :]
            tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask)


@triton.jit
def _reduce_second(
    x_ptr, g_ptr, v_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, sums_ptr,
    rows, channels, inner, rows_a_split, splits, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = _channels(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    zero = tl.zeros((ROWS, CHANNELS), acc)
    sum_d, sum_dx, sum_v, sum_vx, sum_dv = zero, zero, zero, zero, zero
    sum_h, sum_hx, sum_hxx, sum_hv, sum_hvx = zero, zero, zero, zero, zero
    begin, end = split_range(rows, rows_a_split, BIG)
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
    to = sums_ptr + tl.program_id(0) * channels + channel
    term = splits * channels
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
def _apply_second(
    x_ptr, g_ptr, v_ptr, p_ptr, q_ptr, weight_ptr, bias_ptr, mean_ptr, invstd_ptr, gg_ptr, gx_ptr, grad_weight_ptr,
    grad_bias_ptr, sums_ptr, rows, channels, inner, splits, rows_a_program, alpha: tl.float64, gain: tl.float64,
    ACT: tl.constexpr, SMOOTH: tl.constexpr, BATCH: tl.constexpr, SPLITS: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # The formulas and their names are those of NormSecond in csrc/batch_norm_act.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain = alpha.to(acc), gain.to(acc)
    mean, r, weight, bias = _channels(mean_ptr, invstd_ptr, weight_ptr, bias_ptr, channel, inside, acc)
    p = number(p_ptr, channel, inside, 0.0, acc)
    q = number(q_ptr, channel, inside, 0.0, acc)
    scale = weight * r
    none = tl.zeros((CHANNELS,), acc)
    on_xh, t_constant, on_v, on_x, constant = p, q, none, none, none
    if sums_ptr is not None:
        count = tl.cast(rows, acc)
        over = 1.0 / count if BATCH else 0.0 * count
        sum_d = total_sum(sums_ptr, 0, channel, inside, channels, splits, SPLITS)
        sum_dx = total_sum(sums_ptr, 1, channel, inside, channels, splits, SPLITS)
        sum_v = total_sum(sums_ptr, 2, channel, inside, channels, splits, SPLITS)
        sum_vx = total_sum(sums_ptr, 3, channel, inside, channels, splits, SPLITS)
        dv = total_sum(sums_ptr, 4, channel, inside, channels, splits, SPLITS)
        d_mean, d_slope = sum_d * over, r * sum_dx * over
        v_mean, v_slope = sum_v * over, r * sum_vx * over
        dv -= count * (v_mean * d_mean + v_slope * d_slope)
        on_xh = p - scale * v_slope
        t_constant = q - scale * v_mean
        e, e_slope = none, none
        if SMOOTH:
            h = total_sum(sums_ptr, 5, channel, inside, channels, splits, SPLITS)
            hx = total_sum(sums_ptr, 6, channel, inside, channels, splits, SPLITS)
            hxx = total_sum(sums_ptr, 7, channel, inside, channels, splits, SPLITS)
            hv = total_sum(sums_ptr, 8, channel, inside, channels, splits, SPLITS)
            hvx = total_sum(sums_ptr, 9, channel, inside, channels, splits, SPLITS)
            e = scale * hv + on_xh * r * hx + t_constant * h
            e_slope = r * (scale * hvx + on_xh * r * hxx + t_constant * hx)
        mean_part = weight * e * over + on_xh * d_mean - scale * d_slope * v_mean
        slope = weight * e_slope * over + (on_xh - scale * v_slope) * d_slope + scale * dv * over
        on_v = -r * scale * d_slope
        on_x = -r * r * slope
        constant = -r * mean_part
        if tl.program_id(0) == 0:
            if grad_weight_ptr is not None:
                tl.store(grad_weight_ptr + channel, (e_slope + r * dv).to(grad_weight_ptr.dtype.element_ty), inside)
            if grad_bias_ptr is not None:
                tl.store(grad_bias_ptr + channel, e.to(grad_bias_ptr.dtype.element_ty), inside)
    t_on_x, on_d = on_xh * r, on_xh * r
    if gg_ptr is not None or gx_ptr is not None:
        begin, end = split_range(rows, rows_a_program, BIG)
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
                gx = on_d[None, :] * (g * first) + on_v[None, :] * v + on_x[None, :] * x + constant[None, :]
                if SMOOTH:
                    h = g * (gain * act_derivative(u, alpha, ACT, 2))
                    gx += scale[None, :] * h * t
                tl.store(gx_ptr + at, gx.to(gx_ptr.dtype.element_ty), mask)


def _dense(t: Tensor | None, layout: torch.memory_format = torch.contiguous_format) -> Tensor | None:
    return None if t is None else t.contiguous(memory_format=layout)


class _Call:
    """A call's tensors as its kernels take them, and how the kernels go over them."""

    def __init__(self, x: Tensor, second: bool = False):
        self.plan = Plan.of(x)
        self.x = x.contiguous(memory_format=self.plan.layout)
        self.exact = torch.promote_types(x.dtype, torch.float32)
        self.tile = _TILE_SECOND if second else _TILE
        self.sizes = (self.plan.rows, self.plan.channels, self.plan.inner)

    def whole(self, wanted: bool = True) -> Tensor | None:
        return torch.empty_like(self.x) if wanted else None

    def per_channel(self, dtype: torch.dtype | None = None) -> Tensor:
        make = torch.empty if self.x.numel() else torch.zeros
        return make(self.plan.channels, dtype=dtype or self.exact, device=self.x.device)

    def parameter_grad(self, wanted: bool, like: Tensor | None) -> Tensor | None:
        return self.per_channel(None if like is None else like.dtype) if wanted else None

    def reduce(self, kernel, terms: int, *tensors, numbers=(), **meta) -> tuple[Tensor, int, int]:
        """(sums, rows of a split, splits)."""
        rows, splits, tile = self.plan.shares(self.tile, self.plan.splits())
        sums = torch.empty((terms, splits, self.plan.channels), dtype=self.exact, device=self.x.device)
        grid = (splits, self.plan.strips())
        kernel[grid](self.x, *tensors, sums, *self.sizes, rows, splits, *numbers, **meta, **tile, num_warps=4)
        return sums, rows, splits

    def apply(self, kernel, sums: Tensor | None, *args, writes: bool = True, numbers=(), **meta) -> None:
        """`args` are what the kernel takes between x and `sums`, then what between the sizes and its rows."""
        tensors, between = args
        rows, programs, tile = self.plan.apply_shares(self.tile, sums is not None)
        kernel[(programs if writes else 1, self.plan.strips())](
            self.x, *tensors, sums, *self.sizes, *between, rows, *numbers,
            SPLITS=1 if sums is None else triton.next_power_of_2(sums.shape[1]), **meta, **tile, num_warps=4,
        )  # fmt: skip


def _or_none(x: Tensor, t: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(0, dtype=dtype) if t is None else t


def forward(
    x: Tensor, weight, bias, running_mean, running_var, training: bool, eps: float, act: str, alpha: float, gain: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    call = _Call(x)
    y, mean, invstd, var = call.whole(), call.per_channel(), call.per_channel(), call.per_channel()
    if not x.numel():
        return y, mean, invstd, var
    sums, rows, splits = call.reduce(reduce_moments, 2) if training else (None, 0, 0)
    given = (None, None) if training else (_dense(running_mean), _dense(running_var))
    call.apply(
        _apply_forward, sums, (_dense(weight), _dense(bias), *given, y, mean, invstd, var), (rows, splits),
        numbers=(eps, alpha, gain), ACT=act,
    )  # fmt: skip
    return y, mean, invstd, var


def backward(
    gy: Tensor, x: Tensor, weight, bias, mean, invstd, training: bool, act: str, alpha: float, gain: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = _Call(x)
    gx = call.whole(wanted[0])
    gw, gb = call.parameter_grad(wanted[1], weight), call.parameter_grad(wanted[2], bias)
    if x.numel() and any(wanted):
        inputs = (_dense(gy, call.plan.layout), *map(_dense, (weight, bias, mean, invstd)))
        sums, splits, numbers, left = None, 0, (alpha, gain), gx
        if training or wanted[1] or wanted[2]:
            at_once = None if training else gx
            sums, _, splits = call.reduce(_reduce_first, 2, *inputs, at_once, numbers=numbers, ACT=act)
            left = gx if training else None
        if left is not None or wanted[1] or wanted[2]:
            call.apply(
                _apply_first, sums, (*inputs, left, gw, gb), (splits,), writes=left is not None, numbers=numbers,
                ACT=act, BATCH=training,
            )  # fmt: skip
    parameters = [_or_none(x, g, call.exact if t is None else t.dtype) for g, t in ((gw, weight), (gb, bias))]
    return _or_none(x, gx), *parameters


def double_backward(
    v, p, q, gy: Tensor, x: Tensor, weight, bias, mean, invstd, training: bool, act: str, alpha: float, gain: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = _Call(x, second=True)
    gg, gx = call.whole(wanted[0]), call.whole(wanted[1])
    gw, gb = call.parameter_grad(wanted[2], weight), call.parameter_grad(wanted[3], bias)
    if x.numel() and any(wanted):
        channels = tuple(map(_dense, (weight, bias, mean, invstd)))
        g, v = _dense(gy, call.plan.layout), _dense(v, call.plan.layout)
        smooth, numbers = act not in ("linear", "relu", "lrelu"), (alpha, gain)
        sums, splits = None, 0
        if training or wanted[2] or wanted[3]:
            terms = 10 if smooth else 5
            sums, _, splits = call.reduce(
                _reduce_second, terms, g, v, *channels, numbers=numbers, ACT=act, SMOOTH=smooth
            )
        call.apply(
            _apply_second, sums, (g, v, _dense(p), _dense(q), *channels, gg, gx, gw, gb), (splits,),
            writes=wanted[0] or wanted[1], numbers=numbers, ACT=act, SMOOTH=smooth, BATCH=training,
        )  # fmt: skip
    parameters = [_or_none(x, g, call.exact if t is None else t.dtype) for g, t in ((gw, weight), (gb, bias))]
    return _or_none(x, gg), _or_none(x, gx), *parameters
