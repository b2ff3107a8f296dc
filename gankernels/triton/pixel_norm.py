"""pixel_norm in Triton: one launch for the value or a derivative."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check


@triton.jit
def _load(ptr, at, mask, acc: tl.constexpr):
    return tl.load(ptr + at, mask, 0.0).to(acc)


@triton.jit
def _norm(
    x_ptr, g_ptr, v_ptr, for_x_ptr, for_g_ptr, vectors, count, inner, eps: tl.float64, K: tl.constexpr,
    FOR_X: tl.constexpr, FOR_G: tl.constexpr, BIG: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    # Vectors of `count` elements that lie `inner` apart; a tile is CHANNELS of WIDE of them. See csrc/pixel_norm.h.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    out_type: tl.constexpr = x_ptr.dtype.element_ty
    vector = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    first = vector // inner
    if BIG:
        first = first.to(tl.int64)
    first = first * (count * inner) + vector % inner
    xx = tl.zeros((WIDE,), acc)
    gx = tl.zeros((WIDE,), acc)
    vx = tl.zeros((WIDE,), acc)
    vg = tl.zeros((WIDE,), acc)
    for start in range(0, count, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        at = first[None, :] + (channel * inner)[:, None]
        mask = (channel < count)[:, None] & (vector < vectors)[None, :]
        x = _load(x_ptr, at, mask, acc)
        xx += tl.sum(x * x, 0)
        if K > 0:
            g = _load(g_ptr, at, mask, acc)
            gx += tl.sum(g * x, 0)
        if K > 1:
            v = _load(v_ptr, at, mask, acc)
            vx += tl.sum(v * x, 0)
            vg += tl.sum(v * g, 0)
    size = tl.zeros((1,), acc) + count  # which may be 1, and then no tensor
    root = xx / size + eps.to(acc)
    r = 1.0 / (tl.sqrt_rn(root) if acc == tl.float32 else tl.sqrt(root))
    cube = r * r * r
    gx /= size
    vx /= size
    vg /= size
    for start in range(0, count, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        at = first[None, :] + (channel * inner)[:, None]
        mask = (channel < count)[:, None] & (vector < vectors)[None, :]
        x = _load(x_ptr, at, mask, acc)
        if K == 0:
            out = x * r[None, :]
        elif K == 1:
            out = _load(g_ptr, at, mask, acc) * r[None, :] - x * (cube * gx)[None, :]
        else:
            v = _load(v_ptr, at, mask, acc)
            if FOR_G:
                for_g = v * r[None, :] - x * (cube * vx)[None, :]
                tl.store(for_g_ptr + at, for_g.to(out_type), mask)
            along_x = cube * (vg - 3.0 * (r * vx) * (r * gx))
            out = -x * along_x[None, :] - v * (cube * gx)[None, :]
            if FOR_X:
                out -= _load(g_ptr, at, mask, acc) * (cube * vx)[None, :]
        if FOR_X:
            tl.store(for_x_ptr + at, out.to(out_type), mask)


def launch(
    order: int, x: Tensor, dim: int, eps: float, g: Tensor | None = None, v: Tensor | None = None,
    wanted: tuple[bool, bool] = (False, True),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The derivative of `order`: (for g, for x), of which one that is not wanted is empty."""
    layout = _check.kept_format(x, dim)
    x, g, v = (t if t is None else t.contiguous(memory_format=layout) for t in (x, g, v))
    for_g, for_x = (torch.empty_like(x) if want else None for want in wanted)
    if x.numel() and (wanted[0] or wanted[1]):
        inner = 1
        if layout == torch.contiguous_format:
            for size in x.shape[dim + 1 :]:
                inner *= size
        count = x.shape[dim]
        vectors = x.numel() // count
        # A vector in one tile where it fits: what the second loop reads is then still in a cache.
        channels = min(triton.next_power_of_2(count), 4096 if inner == 1 else 256)
        wide = max(1 if inner == 1 else 16, 1024 // channels)
        _norm[(triton.cdiv(vectors, wide),)](
            x, g, v, for_x, for_g, vectors, count, inner, eps, K=order, FOR_X=wanted[1], FOR_G=wanted[0],
            BIG=x.numel() > 2**31 - channels * wide, CHANNELS=channels, WIDE=wide,
            num_warps=max(4, min(16, channels * wide // 256)),
        )  # fmt: skip
    return tuple(x.new_empty(0) if t is None else t for t in (for_g, for_x))
