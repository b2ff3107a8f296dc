"""Sums over a sample in Triton: one launch where samples are short or many, two where they are cut into parts."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 1024  # elements of a program's round
_SHARE = 16384  # elements of a sample that pay for a program of their own in a sum
_PROGRAMS = 2048  # that fill a large GPU


@triton.jit
def _inverse(norm):
    return tl.where(norm == 0, norm, 1 / tl.where(norm == 0, 1.0, norm))


@triton.jit
def _finished(total, over_ptr, sample, factor, ROOT: tl.constexpr, OVER: tl.constexpr):
    total *= factor
    if ROOT:
        total = tl.sqrt(total)
    if OVER:
        total *= _inverse(tl.load(over_ptr + sample).to(total.dtype))
    return total


@triton.jit
def _sums(
    a_ptr, b_ptr, over_ptr, out_ptr, length, share, splits, factor: tl.float64,
    SAME: tl.constexpr, ROOT: tl.constexpr, OVER: tl.constexpr, WHOLE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Products of different numbers cancel: they are summed in float64.
    acc = out_ptr.dtype.element_ty if SAME else tl.float64
    pid = tl.program_id(0)
    sample = pid // splits
    begin = (pid % splits).to(tl.int64) * share
    end = tl.minimum(begin + share, length)
    base = sample.to(tl.int64) * length
    total = tl.zeros((TILE,), acc)
    for start in range(begin, end, TILE):
        at = start + tl.arange(0, TILE)
        mask = at < end
        a = tl.load(a_ptr + base + at, mask, 0.0).to(acc)
        b = a if SAME else tl.load(b_ptr + base + at, mask, 0.0).to(acc)
        total += a * b
    result = tl.sum(total, 0)
    if WHOLE:
        result = _finished(result, over_ptr, sample, factor.to(acc), ROOT, OVER)
    tl.store(out_ptr + pid, result.to(out_ptr.dtype.element_ty))


@triton.jit
def _sum_parts(
    parts_ptr, over_ptr, out_ptr, splits, factor: tl.float64,
    ROOT: tl.constexpr, OVER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    parts = tl.load(parts_ptr + sample.to(tl.int64) * splits + at, at < splits, 0.0)
    total = _finished(tl.sum(parts, 0), over_ptr, sample, factor.to(parts.dtype), ROOT, OVER)
    tl.store(out_ptr + sample, total.to(out_ptr.dtype.element_ty))


@triton.jit
def _combine(
    x_ptr, v_ptr, f_ptr, norm_ptr, along_ptr, out_ptr, length, tiles, factor: tl.float64,
    NORM: tl.constexpr, SECOND: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # f x, f x / norm, or f / norm (v - x along / norm)
    acc = f_ptr.dtype.element_ty
    pid = tl.program_id(0)
    sample = pid // tiles
    at = (pid % tiles).to(tl.int64) * TILE + tl.arange(0, TILE)
    mask = at < length
    at += sample.to(tl.int64) * length
    scale = tl.load(f_ptr + sample) * factor.to(acc)
    value = tl.load(x_ptr + at, mask, 0.0).to(acc)
    if NORM:
        inverse = _inverse(tl.load(norm_ptr + sample))
        scale *= inverse
        if SECOND:
            value = tl.load(v_ptr + at, mask, 0.0).to(acc) - value * (tl.load(along_ptr + sample) * inverse)
    tl.store(out_ptr + at, (value * scale).to(out_ptr.dtype.element_ty), mask)


def _dense(t: Tensor | None, like: Tensor) -> Tensor | None:
    return t if t is None else t.contiguous(memory_format=_check.kept_format(like))


def _summed(a: Tensor, b: Tensor | None, factor: float, root: bool, over: Tensor | None) -> Tensor:
    b, a = _dense(b, a), _dense(a, a)
    samples, dtype = a.shape[0], torch.promote_types(a.dtype, torch.float32)
    out = torch.empty(samples, dtype=dtype, device=a.device)
    if not samples:
        return out
    length = a.numel() // samples
    splits = max(1, min(triton.cdiv(length, _SHARE), triton.cdiv(_PROGRAMS, samples)))
    share = triton.cdiv(triton.cdiv(length, splits), _TILE) * _TILE
    parts_dtype = dtype if b is None else torch.float64
    parts = out if splits == 1 else torch.empty((samples, splits), dtype=parts_dtype, device=a.device)
    over = over if over is None else over.contiguous()
    _sums[(samples * splits,)](
        a, b, over, parts, length, share, splits, factor,
        SAME=b is None, ROOT=root, OVER=over is not None, WHOLE=splits == 1, TILE=_TILE, num_warps=4,
    )  # fmt: skip
    if splits > 1:
        _sum_parts[(samples,)](
            parts, over, out, splits, factor,
            ROOT=root, OVER=over is not None, BLOCK=triton.next_power_of_2(splits), num_warps=1,
        )  # fmt: skip
    return out


def _combined(x: Tensor, v: Tensor | None, f: Tensor, norm: Tensor | None, along: Tensor | None, factor) -> Tensor:
    v, x = _dense(v, x), _dense(x, x)
    out = torch.empty_like(x)
    if not x.numel():
        return out
    length = x.numel() // x.shape[0]
    tiles = triton.cdiv(length, _TILE)
    f, norm, along = (t if t is None else t.contiguous() for t in (f, norm, along))
    _combine[(x.shape[0] * tiles,)](
        x, v, f, norm, along, out, length, tiles, factor,
        NORM=norm is not None, SECOND=v is not None, TILE=_TILE, num_warps=4,
    )  # fmt: skip
    return out


def sum_squares_per_sample(x: Tensor) -> Tensor:
    return _summed(x, None, 1.0, False, None)


def norm_per_sample(x: Tensor) -> Tensor:
    return _summed(x, None, 1.0, True, None)


def dot_per_sample(a: Tensor, b: Tensor, factor: float) -> Tensor:
    return _summed(a, b, factor, False, None)


def scale_per_sample(x: Tensor, f: Tensor, factor: float) -> Tensor:
    return _combined(x, None, f, None, None, factor)


def norm_per_sample_backward(g: Tensor, x: Tensor, norm: Tensor) -> Tensor:
    return _combined(x, None, g, norm, None, 1.0)


def norm_per_sample_double_backward(v: Tensor, g: Tensor, x: Tensor, norm: Tensor, wanted) -> tuple[Tensor, Tensor]:
    v = _dense(v, x)
    along = _summed(v, _dense(x, x), 1.0, False, norm)
    whole = _combined(x, v, g, norm, along, 1.0) if wanted[1] else x.new_empty(0)
    return along if wanted[0] else g.new_empty(0), whole
