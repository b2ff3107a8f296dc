"""upfirdn2d in Triton: one launch and one pass over memory, for any factors, taps and layout.

A tile is [rows, columns] of the output as it lies in memory: for a contiguous tensor a row is one line of one plane;
for a channels_last one it is one position and the columns are channels. Each output meets only the taps of its phase,
so no inserted zero is loaded. Neighbours' loads overlap in the L1 cache: requested bytes are about taps / up times the
unique ones on each axis, which DRAM does not see.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 512


@triton.jit
def _axis(o, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """First tap (in correlation order) and first sample of outputs `o` along an axis."""
    phase = (pad - o * DOWN) % UP
    tap = tl.where(phase < 0, phase + UP, phase)
    return tap, (o * DOWN - pad + tap) // UP  # divides exactly


@triton.jit
def _tap(f_ptr, tap, K: tl.constexpr, FLIP: tl.constexpr):
    at = tap if FLIP else K - 1 - tap
    return tl.load(f_ptr + at, tap < K, 0.0)


@triton.jit
def _fir(
    x_ptr, f_ptr, fy_ptr, out_ptr, rows, columns, height, width, out_height, out_width, pad_x, pad_y, gain: tl.float64,
    UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr, KW: tl.constexpr, KH: tl.constexpr,
    SEPARABLE: tl.constexpr, FLIP: tl.constexpr, LAST: tl.constexpr, BIG: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    acc_t = tl.float64 if out_ptr.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if BIG:
        row = row.to(tl.int64)
        column = column.to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    if LAST:
        oy = (row // out_width % out_height)[:, None]
        ox = (row % out_width)[:, None]
        base = (row // out_width // out_height * height * width * columns)[:, None] + column[None, :]
        step = columns
    else:
        oy = (row % out_height)[:, None]
        ox = column[None, :]
        base = (row // out_height * height * width)[:, None]
        step = 1
    tap_x, first_x = _axis(ox, pad_x, UX, DX)
    tap_y, first_y = _axis(oy, pad_y, UY, DY)
    total = tl.zeros((ROWS, COLUMNS), acc_t)
    for ty in tl.static_range((KH + UY - 1) // UY):
        iy = first_y + ty
        row_ok = (iy >= 0) & (iy < height) & (tap_y + ty * UY < KH)
        line = tl.zeros((ROWS, COLUMNS), acc_t)
        for tx in tl.static_range((KW + UX - 1) // UX):
            ix = first_x + tx
            ok = inside & row_ok & (ix >= 0) & (ix < width)
            sample = tl.load(x_ptr + base + (iy * width + ix) * step, ok, 0.0).to(acc_t)
            if SEPARABLE:
                weight = _tap(f_ptr, tap_x + tx * UX, KW, FLIP).to(acc_t)
            else:
                x_at = tap_x + tx * UX
                y_at = tap_y + ty * UY
                at = y_at * KW + x_at if FLIP else (KH - 1 - y_at) * KW + (KW - 1 - x_at)
                weight = tl.load(f_ptr + at, (x_at < KW) & (y_at < KH), 0.0).to(acc_t)
            line += weight * sample
        if SEPARABLE:
            line *= _tap(fy_ptr, tap_y + ty * UY, KH, FLIP).to(acc_t)
        total += line
    total *= gain.to(acc_t)
    tl.store(out_ptr + row[:, None] * columns + column[None, :], total.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _filter_gradient(
    x_ptr, g_ptr, sums_ptr, numel, height, width, out_height, out_width, pad_x, pad_y, splits,
    UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr, KW: tl.constexpr, KH: tl.constexpr,
    FLIP: tl.constexpr, BIG: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    acc_t = tl.float64 if g_ptr.dtype.element_ty == tl.float64 else tl.float32
    tap = tl.program_id(0)
    split = tl.program_id(1)
    tap_x = tap % KW
    tap_y = tap // KW
    total = tl.zeros((TILE,), acc_t)
    for start in range(split * TILE, numel, splits * TILE):
        o = start + tl.arange(0, TILE)
        if BIG:
            o = o.to(tl.int64)
        at_x = o % out_width * DX - pad_x + tap_x  # on the upsampled image
        at_y = o // out_width % out_height * DY - pad_y + tap_y
        ok = (o < numel) & (at_x >= 0) & (at_y >= 0) & (at_x % UX == 0) & (at_y % UY == 0)
        ix = at_x // UX
        iy = at_y // UY
        ok = ok & (ix < width) & (iy < height)
        g = tl.load(g_ptr + o, ok, 0.0).to(acc_t)
        x = tl.load(x_ptr + (o // out_width // out_height * height + iy) * width + ix, ok, 0.0).to(acc_t)
        total += g * x
    at = tap if FLIP else KW * KH - 1 - tap
    tl.store(sums_ptr + split * KW * KH + at, tl.sum(total, 0))


def upfirdn2d(
    x: Tensor, f: Tensor, fy: Tensor | None, up: list[int], down: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    from gankernels.ops.upfirdn2d_op import out_size

    layout = _check.kept_format(x)
    kh, kw = f.shape if fy is None else (fy.shape[0], f.shape[0])
    n, channels, height, width = x.shape
    out_height = out_size(height, up[1], down[1], padding[2], padding[3], kh)
    out_width = out_size(width, up[0], down[0], padding[0], padding[1], kw)
    out = torch.empty((n, channels, out_height, out_width), dtype=x.dtype, device=x.device, memory_format=layout)
    if not out.numel():
        return out
    x, f = x.contiguous(memory_format=layout), f.contiguous()
    last = layout == torch.channels_last
    rows, columns = (n * out_height * out_width, channels) if last else (n * channels * out_height, out_width)
    wide = min(128, triton.next_power_of_2(columns))
    tall = _TILE // wide
    _fir[(triton.cdiv(rows, tall), triton.cdiv(columns, wide))](
        x, f, f if fy is None else fy.contiguous(), out, rows, columns, height, width, out_height, out_width,
        padding[0], padding[2], gain, UX=up[0], UY=up[1], DX=down[0], DY=down[1], KW=kw, KH=kh,
        SEPARABLE=fy is not None, FLIP=flip, LAST=last, BIG=max(x.numel(), out.numel()) > 2**31 - _TILE * 128,
        ROWS=tall, COLUMNS=wide, num_warps=4,
    )  # fmt: skip
    return out


def upfirdn2d_filter_grad(
    x: Tensor, g: Tensor, taps: list[int], up: list[int], down: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    kh, kw = taps
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not (x.numel() and g.numel()):
        return torch.zeros((kh, kw), dtype=dtype, device=x.device)
    x, g = x.contiguous(), g.contiguous()
    splits = max(1, min(triton.cdiv(g.numel(), _TILE), triton.cdiv(1024, kh * kw)))
    sums = torch.empty((splits, kh, kw), dtype=dtype, device=x.device)
    _filter_gradient[(kh * kw, splits)](
        x, g, sums, g.numel(), x.shape[2], x.shape[3], g.shape[2], g.shape[3],
        padding[0], padding[2], splits, UX=up[0], UY=up[1], DX=down[0], DY=down[1], KW=kw, KH=kh, FLIP=flip,
        BIG=max(x.numel(), g.numel()) > 2**31 - _TILE * splits, TILE=_TILE, num_warps=4,
    )  # fmt: skip
    return sums.sum(0) * gain
