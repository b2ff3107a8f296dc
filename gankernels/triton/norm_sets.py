"""Sets of cells, for the normalisations in Triton: the formulas of csrc/batch_norm_act.h, whose names these are.

Where the cells of a channel share statistics but not weights, the kernels here add them up between the two launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.channel_sums import Call, Sums, number, store_number, total_sum


@triton.jit
def combine_first(
    sums_ptr, weight_ptr, invstd_ptr, grad_weight_ptr, grad_bias_ptr, totals_ptr, rows, groups, channels, splits,
    SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # Mean and slope of each channel's weight * d, and the gradients of its cells.
    acc: tl.constexpr = sums_ptr.dtype.element_ty
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    r = number(invstd_ptr, channel, inside, 1.0, acc)
    mean, slope = tl.zeros((CHANNELS,), acc), tl.zeros((CHANNELS,), acc)
    for group in range(groups):
        cell = group * channels + channel
        weight = number(weight_ptr, cell, inside, 1.0, acc)
        grad_bias = total_sum(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
        grad_weight = r * total_sum(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
        store_number(grad_weight_ptr, cell, grad_weight, inside)
        store_number(grad_bias_ptr, cell, grad_bias, inside)
        mean += weight * grad_bias
        slope += weight * grad_weight
    over = 1.0 / (tl.cast(rows, acc) * tl.cast(groups, acc))
    tl.store(totals_ptr + channel, mean * over, inside)
    tl.store(totals_ptr + channels + channel, slope * over, inside)


@triton.jit
def set_of_sums(
    sums_ptr, group, groups, channel, inside, channels, splits, weight, p, SPLITS: tl.constexpr
):  # fmt: skip
    """What a cell adds to its set: NormSecond's add in csrc/batch_norm_act.h, as the names here are its."""
    d = total_sum(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
    dx = total_sum(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
    v = total_sum(sums_ptr, 2, group, groups, channel, inside, channels, splits, SPLITS)
    vx = total_sum(sums_ptr, 3, group, groups, channel, inside, channels, splits, SPLITS)
    dv = total_sum(sums_ptr, 4, group, groups, channel, inside, channels, splits, SPLITS)
    return weight * d, weight * dx, v, vx, weight * dv, p * d, p * dx


@triton.jit
def close_set(d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, over, r):
    """Means of the sums that a set has."""
    along = r * over
    d_mean, v_mean, p_mean = d_mean * over, v_mean * over, p_mean * over
    d_slope, v_slope, p_slope = d_slope * along, v_slope * along, p_slope * along
    return d_mean, d_slope, v_mean, v_slope, dv * over - (v_mean * d_mean + v_slope * d_slope), p_mean, p_slope


@triton.jit
def cell_sums(
    sums_ptr, group, groups, channel, inside, channels, splits, scale, t_on_x, t_constant, v_mean, v_slope, r,
    SMOOTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """(sum of h t, of h t xh, gradient of weight) of a closed set's cells; the first is the gradient of bias."""
    d = total_sum(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
    dx = total_sum(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
    dv = total_sum(sums_ptr, 4, group, groups, channel, inside, channels, splits, SPLITS)
    e, e_slope = tl.zeros_like(d), tl.zeros_like(d)
    if SMOOTH:
        h = total_sum(sums_ptr, 5, group, groups, channel, inside, channels, splits, SPLITS)
        hx = total_sum(sums_ptr, 6, group, groups, channel, inside, channels, splits, SPLITS)
        hxx = total_sum(sums_ptr, 7, group, groups, channel, inside, channels, splits, SPLITS)
        hv = total_sum(sums_ptr, 8, group, groups, channel, inside, channels, splits, SPLITS)
        hvx = total_sum(sums_ptr, 9, group, groups, channel, inside, channels, splits, SPLITS)
        e = scale * hv + t_on_x * hx + t_constant * h
        e_slope = r * (scale * hvx + t_on_x * hxx + t_constant * hx)
    return e, e_slope, e_slope + r * (dv - v_mean * d - v_slope * r * dx)


@triton.jit
def from_set(d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, e_mean, e_slope, r):
    """(on_v, on_x, constant) of the gradient of x."""
    on_x = -r * r * (e_slope + p_slope + r * (dv - 2.0 * v_slope * d_slope))
    constant = -r * (e_mean + p_mean - r * (v_slope * d_mean + d_slope * v_mean))
    return -r * r * d_slope, on_x, constant


@triton.jit
def shared_numbers(totals_ptr, channel, inside, channels):
    """(v_mean, v_slope, on_v, on_x, constant) of channels."""
    at = totals_ptr + channel
    v_mean = tl.load(at, inside, 0.0)
    v_slope = tl.load(at + channels, inside, 0.0)
    on_v = tl.load(at + 2 * channels, inside, 0.0)
    return v_mean, v_slope, on_v, tl.load(at + 3 * channels, inside, 0.0), tl.load(at + 4 * channels, inside, 0.0)


@triton.jit
def combine_second(
    sums_ptr, weight_ptr, p_ptr, q_ptr, invstd_ptr, grad_weight_ptr, grad_bias_ptr, totals_ptr, rows, groups, channels,
    splits, SMOOTH: tl.constexpr, SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = sums_ptr.dtype.element_ty
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    r = number(invstd_ptr, channel, inside, 1.0, acc)
    zero = tl.zeros((CHANNELS,), acc)
    d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope = zero, zero, zero, zero, zero, zero, zero
    for group in range(groups):
        cell = group * channels + channel
        weight, p = number(weight_ptr, cell, inside, 1.0, acc), number(p_ptr, cell, inside, 0.0, acc)
        a, b, c, d, e, f, g = set_of_sums(sums_ptr, group, groups, channel, inside, channels, splits, weight, p, SPLITS)
        d_mean, d_slope, v_mean, v_slope = d_mean + a, d_slope + b, v_mean + c, v_slope + d
        dv, p_mean, p_slope = dv + e, p_mean + f, p_slope + g
    over = 1.0 / (tl.cast(rows, acc) * tl.cast(groups, acc))
    d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope = close_set(
        d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, over, r
    )
    e_mean, e_slope = zero, zero
    for group in range(groups):
        cell = group * channels + channel
        weight, p = number(weight_ptr, cell, inside, 1.0, acc), number(p_ptr, cell, inside, 0.0, acc)
        scale = weight * r
        t_on_x, t_constant = (p - scale * v_slope) * r, number(q_ptr, cell, inside, 0.0, acc) - scale * v_mean
        e, slope, grad_weight = cell_sums(
            sums_ptr, group, groups, channel, inside, channels, splits, scale, t_on_x, t_constant, v_mean, v_slope, r,
            SMOOTH, SPLITS,
        )  # fmt: skip
        store_number(grad_weight_ptr, cell, grad_weight, inside)
        store_number(grad_bias_ptr, cell, e, inside)
        e_mean += weight * e * over
        e_slope += weight * slope * over
    on_v, on_x, constant = from_set(d_mean, d_slope, v_mean, v_slope, dv, p_mean, p_slope, e_mean, e_slope, r)
    at = totals_ptr + channel
    tl.store(at, v_mean, inside)
    tl.store(at + channels, v_slope, inside)
    tl.store(at + 2 * channels, on_v, inside)
    tl.store(at + 3 * channels, on_x, inside)
    tl.store(at + 4 * channels, constant, inside)


def combine(call: Call, kernel, sums: Sums, totals: int, *tensors: Tensor | None, **meta) -> Sums:
    """[totals, channels] of the sets that several groups' cells make, by a kernel that takes sums, tensors, totals,
    rows, groups, channels, splits."""
    plan, wide = call.plan, min(32, triton.next_power_of_2(call.plan.channels))
    out = torch.empty((totals, plan.channels), dtype=call.exact, device=call.x.device)
    kernel[(triton.cdiv(plan.channels, wide),)](
        sums.sums, *tensors, out, plan.rows, plan.groups, plan.channels, sums.splits,
        SPLITS=triton.next_power_of_2(sums.splits), CHANNELS=wide, **meta, num_warps=4,
    )  # fmt: skip
    return Sums(out, sums.rows, 1)


def kind_of(x: Tensor, weight, bias, mean: Tensor | None = None) -> str:
    """How numbers lie: "one" [C], "samples" [N, C] beside statistics of channels, "instances" [N, C] throughout, or
    "pixels" of the shape of x."""
    if mean is not None and mean.ndim == 2:
        return "instances"
    given = weight if weight is not None else bias
    return "one" if given is None or given.ndim == 1 else "samples" if given.ndim == 2 else "pixels"
