"""bias_act in Triton: one launch for the value, one for a derivative, two where a bias is reduced as well."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check
from gankernels.triton.activations import bias_act_derivative, slope_of_output

_TILE = 1024  # elements of a program


@triton.jit
def _whole(
    x_ptr, bias_ptr, g_ptr, g_bias_ptr, h_ptr, out_ptr, numel, channels, inner,
    alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    ACT: tl.constexpr, K: tl.constexpr, CLAMP: tl.constexpr, X: tl.constexpr, BIAS: tl.constexpr,
    G_BIAS: tl.constexpr, H: tl.constexpr, OUTPUT: tl.constexpr, LAST: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, VEC: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    acc = tl.float64 if out_ptr.dtype.element_ty == tl.float64 else tl.float32
    pid = tl.program_id(0)
    if BIG:
        pid = pid.to(tl.int64)
    group = pid * (TILE // VEC) + tl.arange(0, TILE // VEC)
    at = group[:, None] * VEC + tl.arange(0, VEC)[None, :]
    if LAST:
        channel = (group * VEC % channels)[:, None] + tl.arange(0, VEC)[None, :]
    else:
        channel = (group * VEC // inner % channels)[:, None]
    mask = None if EVEN else at < numel
    alpha, gain, clamp = alpha.to(acc), gain.to(acc), clamp.to(acc)
    if X:
        u = tl.load(x_ptr + at, mask).to(acc)
    else:
        u = tl.full(at.shape, 0.0, acc)
    if BIAS:
        u += tl.load(bias_ptr + channel).to(acc)
    factor = u
    if K > 0:
        factor = tl.load(g_ptr + at, mask).to(acc)
        if G_BIAS:
            factor += tl.load(g_bias_ptr + channel).to(acc)
        if H:
            factor *= tl.load(h_ptr + at, mask).to(acc)
    if OUTPUT:
        out = factor * slope_of_output(u, alpha, gain, ACT, K)
    else:
        out = bias_act_derivative(factor, u, alpha, gain, clamp, ACT, K, CLAMP)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def _reduced(
    x_ptr, bias_ptr, g_ptr, g_bias_ptr, h_ptr, out_ptr, sums_ptr, rows, channels, inner, splits,
    alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    ACT: tl.constexpr, K: tl.constexpr, CLAMP: tl.constexpr, X: tl.constexpr, BIAS: tl.constexpr,
    G_BIAS: tl.constexpr, H: tl.constexpr, OUTPUT: tl.constexpr, OUT: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # A tile is ROWS positions of CHANNELS channels; positions are all (outer, inner), strided by the caller's layout.
    acc = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    split = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    alpha, gain, clamp = alpha.to(acc), gain.to(acc), clamp.to(acc)
    total = tl.zeros((ROWS, CHANNELS), acc)
    bias = tl.load(bias_ptr + channel, inside, 0.0).to(acc) if BIAS else tl.zeros((CHANNELS,), acc)
    g_bias = tl.load(g_bias_ptr + channel, inside, 0.0).to(acc) if G_BIAS else tl.zeros((CHANNELS,), acc)
    for start in range(split * ROWS, rows, splits * ROWS):
        row = start + tl.arange(0, ROWS)
        if BIG:
            row = row.to(tl.int64)
        at = (row // inner * channels * inner + row % inner)[:, None] + (channel * inner)[None, :]
        mask = (row < rows)[:, None] & inside[None, :]
        if EVEN:
            mask = tl.full(mask.shape, True, tl.int1)
        u = tl.zeros((ROWS, CHANNELS), acc)
        if X:
            u += tl.load(x_ptr + at, mask, 0.0).to(acc)
        u += bias[None, :]
        factor = tl.load(g_ptr + at, mask, 0.0).to(acc) + g_bias[None, :]
        if H:
            factor *= tl.load(h_ptr + at, mask, 0.0).to(acc)
        if OUTPUT:
            out = factor * slope_of_output(u, alpha, gain, ACT, K)
        else:
            out = bias_act_derivative(factor, u, alpha, gain, clamp, ACT, K, CLAMP)
        if OUT:
            tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask)
        total += tl.where(mask, out, tl.zeros((ROWS, CHANNELS), acc))
    tl.store(sums_ptr + split * channels + channel, tl.sum(total, 0), inside)


def _view(x: Tensor, dim: int) -> tuple[torch.memory_format, int, int]:
    """(memory format, channels, inner) of x seen as contiguous [outer, channels, inner]."""
    layout = _check.kept_format(x, dim)
    inner = 1
    if layout == torch.contiguous_format:
        for size in x.shape[dim + 1 :]:
            inner *= size
    return layout, x.shape[dim], inner


def _launch_whole(x, bias, g, g_bias, h, like, is_output, order, dim, act, alpha, gain, clamp) -> Tensor:
    layout, channels, inner = _view(like, dim)
    tensors = [t if t is None else t.contiguous(memory_format=layout) for t in (x, g, h)]
    x, g, h = tensors
    out = torch.empty_like(like, memory_format=layout)
    if not out.numel():
        return out
    last = inner == 1
    vec = 16 // out.element_size()
    while vec > 1 and (channels if last else inner) % vec:
        vec //= 2
    grid = (triton.cdiv(out.numel(), _TILE),)
    _whole[grid](
        x, bias, g, g_bias, h, out, out.numel(), channels, inner, alpha, gain, clamp,
        ACT=act, K=order, CLAMP=clamp >= 0, X=x is not None, BIAS=bias is not None, G_BIAS=g_bias is not None,
        H=h is not None, OUTPUT=is_output, LAST=last, BIG=out.numel() > 2**31 - _TILE,
        EVEN=out.numel() % _TILE == 0, VEC=vec, TILE=_TILE, num_warps=4,
    )  # fmt: skip
    return out


def value(x: Tensor, bias: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    bias = bias if bias is None else bias.contiguous()
    return _launch_whole(x, bias, None, None, None, x, False, 0, dim, act, alpha, gain, clamp)


def derivative(
    g, g_bias, h, ref, bias, ref_is_output, order, dim, act, alpha, gain, clamp, want_full, want_bias
) -> tuple[Tensor, Tensor]:
    like = g if ref is None else ref
    bias, g_bias = (t if t is None else t.contiguous() for t in (bias, g_bias))
    if not want_bias:
        full = _launch_whole(ref, bias, g, g_bias, h, like, ref_is_output, order, dim, act, alpha, gain, clamp)
        return full, g.new_empty(0)
    layout, channels, inner = _view(like, dim)
    ref, g, h = (t if t is None else t.contiguous(memory_format=layout) for t in (ref, g, h))
    full = torch.empty_like(like, memory_format=layout) if want_full else g.new_empty(0)
    if not g.numel():
        return full, g.new_zeros(channels)
    rows = g.numel() // channels
    wide = min(64, triton.next_power_of_2(channels)) if inner == 1 else 1
    tall = _TILE // wide
    splits = max(1, min(triton.cdiv(rows, tall), 1024 * wide // triton.next_power_of_2(channels)))
    sums = torch.empty((splits, channels), dtype=torch.promote_types(g.dtype, torch.float32), device=g.device)
    _reduced[(splits, triton.cdiv(channels, wide))](
        ref, bias, g, g_bias, h, full, sums, rows, channels, inner, splits, alpha, gain, clamp,
        ACT=act, K=order, CLAMP=clamp >= 0, X=ref is not None, BIAS=bias is not None, G_BIAS=g_bias is not None,
        H=h is not None, OUTPUT=ref_is_output, OUT=want_full, BIG=g.numel() > 2**31 - _TILE * splits,
        EVEN=rows % tall == 0 and channels % wide == 0, ROWS=tall, CHANNELS=wide, num_warps=4,
    )  # fmt: skip
    return full, sums.sum(0).to(g.dtype)
