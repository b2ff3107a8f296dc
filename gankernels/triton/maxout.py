"""maxout in Triton: one launch for the value with its index, or for a derivative that follows an index."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 1024  # results of a program
_VALUE, _SCATTER, _GATHER = range(3)


@triton.jit
def _maxout(
    in_ptr, out_ptr, index_ptr, results, pieces, inner,
    ORDER: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, VEC: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Pieces lie `inner` apart; a group is VEC neighbouring results of one row.
    out_type: tl.constexpr = out_ptr.dtype.element_ty
    acc: tl.constexpr = tl.float64 if out_type == tl.float64 else tl.float32
    pid = tl.program_id(0)
    if BIG:
        pid = pid.to(tl.int64)
    group = pid * (TILE // VEC) + tl.arange(0, TILE // VEC)
    result = group[:, None] * VEC + tl.arange(0, VEC)[None, :]
    mask = None if EVEN else result < results
    at = (group * VEC // inner * inner * (pieces - 1) + group * VEC)[:, None] + tl.arange(0, VEC)[None, :]
    if ORDER == 1:
        g = tl.load(in_ptr + result, mask)
        which = tl.load(index_ptr + result, mask).to(tl.int32)
        for piece in range(0, pieces):
            tl.store(out_ptr + at + piece * inner, tl.where(which == piece, g, 0.0).to(out_type), mask)
    else:
        most = tl.load(in_ptr + at, mask).to(acc)
        if ORDER == 2:
            which = tl.load(index_ptr + result, mask).to(tl.int32)
        else:
            which = tl.zeros(most.shape, tl.int32)
        for piece in range(1, pieces):
            x = tl.load(in_ptr + at + piece * inner, mask).to(acc)
            if ORDER == 2:
                most = tl.where(which == piece, x, most)
            else:
                take = ((x > most) | (x != x)) & (most == most)
                most = tl.where(take, x, most)
                which = tl.where(take, piece, which)
        tl.store(out_ptr + result, most.to(out_type), mask)
        if ORDER == 0 and index_ptr is not None:
            tl.store(index_ptr + result, which.to(index_ptr.dtype.element_ty), mask)


def _launch(order: int, source: Tensor, out: Tensor, index: Tensor | None, pieces: int, dim: int, layout) -> None:
    """All are dense in one layout."""
    whole, reduced = (out, source) if order == _SCATTER else (source, out)
    if not whole.numel():
        return
    inner = 1
    if layout == torch.contiguous_format:
        for size in reduced.shape[dim + 1 :]:
            inner *= size
    vec = 16 // out.element_size()
    while vec > 1 and inner % vec:
        vec //= 2
    results = reduced.numel()
    _maxout[(triton.cdiv(results, _TILE),)](
        source, out, index, results, pieces, inner,
        ORDER=order, BIG=whole.numel() > 2**31 - _TILE * pieces, EVEN=results % _TILE == 0, VEC=vec, TILE=_TILE,
        num_warps=4,
    )  # fmt: skip


def _sized(like: Tensor, dim: int, channels: int, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    shape = (*like.shape[:dim], channels, *like.shape[dim + 1 :])
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=layout)


def value(x: Tensor, pieces: int, dim: int, with_index: bool) -> tuple[Tensor, Tensor]:
    layout, channels = _check.kept_format(x, dim), x.shape[dim] // pieces
    y = _sized(x, dim, channels, x.dtype, layout)
    index_dtype = torch.uint8 if pieces <= 256 else torch.int32
    index = _sized(x, dim, channels, index_dtype, layout) if with_index else None
    _launch(_VALUE, x.contiguous(memory_format=layout), y, index, pieces, dim, layout)
    return y, x.new_empty(0, dtype=index_dtype) if index is None else index


def _linear(order: int, t: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    layout, channels = _check.kept_format(index, dim), index.shape[dim]
    out = _sized(index, dim, channels * pieces if order == _SCATTER else channels, t.dtype, layout)
    t, index = (a.contiguous(memory_format=layout) for a in (t, index))
    _launch(order, t, out, index, pieces, dim, layout)
    return out


def scatter(g: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    return _linear(_SCATTER, g, index, pieces, dim)


def gather(v: Tensor, index: Tensor, pieces: int, dim: int) -> Tensor:
    return _linear(_GATHER, v, index, pieces, dim)
