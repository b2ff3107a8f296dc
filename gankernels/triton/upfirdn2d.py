"""upfirdn2d in Triton: one launch and one pass over memory, for any factors, taps and layout.

A tile is [rows, columns] of the output as it lies in memory: for a contiguous tensor a row is one line of one plane;
for a channels_last one it is one position and the columns are channels. A program makes a group of such rows of the
output: each row of x is loaded once for all of them, and filtered across once where the filter is separable. Each
output meets only the taps of its phase, so no inserted zero is loaded. Neighbours' loads overlap in the L1 cache:
requested bytes are about taps / up times the unique ones across, and (taps + rows) / rows down, which DRAM does not
see.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 512
_HELD = 36  # numbers of a filter that stay in registers
# Samples for which a group of outputs is straight-line code, more are a loop over rows: where the registers would hold
# numbers of the filter for each column, or packs of 16-bit numbers, and elsewhere.
_UNROLLED_LONG, _UNROLLED = 36, 64
_CHOSEN = 6  # numbers of the filter's column among which a loop chooses in registers; of more it loads one


@triton.jit
def _axis(o, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """First tap (in correlation order) and first sample of outputs `o` along an axis."""
    phase = (pad - o * DOWN) % UP
    tap = tl.where(phase < 0, phase + UP, phase)
    return tap, (o * DOWN - pad + tap) // UP  # divides exactly


@triton.jit
def _weight(f_ptr, x_at, y_at, ok, KW: tl.constexpr, KH: tl.constexpr, FLIP: tl.constexpr, acc_t: tl.constexpr):
    """A number of a filter [KH, KW] by its place in correlation order."""
    at = y_at * KW + x_at if FLIP else (KH - 1 - y_at) * KW + (KW - 1 - x_at)
    return tl.load(f_ptr + at, ok, 0.0).to(acc_t)


@triton.jit
def _add(totals, g: tl.constexpr, term):
    return totals[:g] + (totals[g] + term,) + totals[g + 1 :]  # noqa: RUF005 (Triton has no * here)


@triton.jit
def _choose(
    weights, ty, FIRST: tl.constexpr, EVERY: tl.constexpr, STEP: tl.constexpr, KH: tl.constexpr, AT: tl.constexpr
):
    """weights[ty * STEP + AT], ty one of FIRST, FIRST + EVERY, ... below KH, else 0."""
    weight = weights[AT] * 0.0
    for t in tl.static_range(FIRST, KH, EVERY):
        weight = tl.where(ty == t, weights[t * STEP + AT], weight)
    return weight


@triton.jit
def _add_row(
    totals, n, x_ptr, f_ptr, fy_ptr, weights, weights_y, top, first_x, tap_x, inside, height, width, step,
    UX: tl.constexpr, UY: tl.constexpr, DY: tl.constexpr, KW: tl.constexpr, KH: tl.constexpr, SHIFT: tl.constexpr,
    SEPARABLE: tl.constexpr, FLIP: tl.constexpr, GROUP: tl.constexpr, HELD: tl.constexpr, UNROLLED: tl.constexpr,
    CHOSEN: tl.constexpr, acc_t: tl.constexpr,
):  # fmt: skip
    """What row n of a group's window gives to the rows of the output; those that do not meet it stay as they are."""
    NX: tl.constexpr = (KW + UX - 1) // UX
    iy = top + n
    row_ok = inside & (iy >= 0) & (iy < height)
    line = tl.zeros(inside.shape, acc_t)
    for tx in tl.static_range(NX):
        ix = first_x + tx
        x_at = tap_x + tx * UX
        ok = row_ok & (ix >= 0) & (ix < width)
        if UX > 1:
            ok = ok & (x_at < KW)
        sample = tl.load(x_ptr + (iy * width + ix) * step, ok, 0.0).to(acc_t)
        if SEPARABLE:
            line += (weights[tx] if HELD else _weight(f_ptr, x_at, 0, x_at < KW, KW, 1, FLIP, acc_t)) * sample
        else:
            for g in tl.static_range(GROUP):
                if UNROLLED:
                    if UY * n - g * DY - SHIFT >= 0 and UY * n - g * DY - SHIFT < KH:
                        if HELD:
                            totals = _add(totals, g, weights[(UY * n - g * DY - SHIFT) * NX + tx] * sample)
                        else:
                            weight = _weight(f_ptr, x_at, UY * n - g * DY - SHIFT, x_at < KW, KW, KH, FLIP, acc_t)
                            totals = _add(totals, g, weight * sample)
                else:
                    ty = UY * n - g * DY - SHIFT
                    meets = (ty >= 0) & (ty < KH)
                    if HELD and CHOSEN:
                        weight = _choose(weights, ty, (-g * DY - SHIFT) % UY, UY, NX, KH, tx)
                    else:
                        weight = _weight(f_ptr, x_at, ty, (x_at < KW) & meets, KW, KH, FLIP, acc_t)
                    totals = _add(totals, g, tl.where(meets, weight * sample, 0.0))
    if SEPARABLE:
        for g in tl.static_range(GROUP):
            if UNROLLED:
                if UY * n - g * DY - SHIFT >= 0 and UY * n - g * DY - SHIFT < KH:
                    weight = _weight(fy_ptr, 0, UY * n - g * DY - SHIFT, True, 1, KH, FLIP, acc_t)
                    totals = _add(totals, g, weight * line)
            else:
                ty = UY * n - g * DY - SHIFT
                meets = (ty >= 0) & (ty < KH)
                if CHOSEN:
                    weight = _choose(weights_y, ty, (-g * DY - SHIFT) % UY, UY, 1, KH, 0)
                else:
                    weight = _weight(fy_ptr, 0, ty, meets, 1, KH, FLIP, acc_t)
                totals = _add(totals, g, tl.where(meets, weight * line, 0.0))
    return totals


@triton.jit(do_not_specialize=["zero", "pad_x"])
def _fir(
    x_ptr, f_ptr, fy_ptr, out_ptr, rows, columns, height, width, out_height, out_width, groups, pad_x, first_y, zero,
    gain: tl.float64,
    UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr, KW: tl.constexpr, KH: tl.constexpr,
    SHIFT: tl.constexpr, SEPARABLE: tl.constexpr, FLIP: tl.constexpr, LAST: tl.constexpr, BIG: tl.constexpr,
    GROUP: tl.constexpr, HELD: tl.constexpr, UNROLLED: tl.constexpr, CHOSEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    acc_t: tl.constexpr = tl.float64 if out_ptr.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if BIG:
        row = row.to(tl.int64)
        column = column.to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    if LAST:
        line_of = row // out_width
        ox = (row % out_width)[:, None]
        offset = column[None, :]
        step = columns
    else:
        line_of = row
        ox = column[None, :]
        offset = 0
        step = 1
        # The loads of neighbouring taps are not aligned together. Where stores may not be either, a warp has a line of
        # columns, a number a thread, instead of four lines in packs that it could only load in parts.
        out_ptr += zero
    plane = (line_of // groups)[:, None]
    group = (line_of % groups)[:, None]
    if UX == 1:  # one phase: weights are single numbers
        tap_x: tl.constexpr = 0
        first_x = ox * DX - pad_x
    else:
        tap_x, first_x = _axis(ox, pad_x, UX, DX)
    top = group * (GROUP * DY // UY) + first_y
    NX: tl.constexpr = (KW + UX - 1) // UX
    N: tl.constexpr = ((GROUP - 1) * DY + SHIFT + KH - 1) // UY + 1
    H: tl.constexpr = 1 if SEPARABLE else KH  # rows of taps in f
    weights = (_weight(f_ptr, tap_x, 0, tap_x < KW, KW, H, FLIP, acc_t),)
    if HELD:
        for at in tl.static_range(1, H * NX):
            x_at = tap_x + at % NX * UX
            weights += (_weight(f_ptr, x_at, at // NX, x_at < KW, KW, H, FLIP, acc_t),)
    weights_y = (_weight(fy_ptr, 0, 0, True, 1, KH, FLIP, acc_t),)
    if SEPARABLE and CHOSEN:
        for at in tl.static_range(1, KH):
            weights_y += (_weight(fy_ptr, 0, at, True, 1, KH, FLIP, acc_t),)
    totals = (tl.zeros((ROWS, COLUMNS), acc_t),) * GROUP
    x_ptr += plane * height * width * step + offset
    if UNROLLED:
        for n in tl.static_range(N):
            totals = _add_row(
                totals, n, x_ptr, f_ptr, fy_ptr, weights, weights_y, top, first_x, tap_x, inside, height, width, step,
                UX, UY, DY, KW, KH, SHIFT, SEPARABLE, FLIP, GROUP, HELD, UNROLLED, CHOSEN, acc_t,
            )  # fmt: skip
    else:
        for n in tl.range(N):
            totals = _add_row(
                totals, n, x_ptr, f_ptr, fy_ptr, weights, weights_y, top, first_x, tap_x, inside, height, width, step,
                UX, UY, DY, KW, KH, SHIFT, SEPARABLE, FLIP, GROUP, HELD, UNROLLED, CHOSEN, acc_t,
            )  # fmt: skip
    for g in tl.static_range(GROUP):
        oy = group * GROUP + g
        at = (plane * out_height + oy) * out_width * step + ox * step + offset
        out = totals[g] * gain.to(acc_t)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), inside & (oy < out_height))


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
    last, separable = layout == torch.channels_last, fy is not None
    group = _rows_at_once(kh, kw, up[1], down[1], separable)
    groups = triton.cdiv(out_height, group)
    rows, columns = (n * groups * out_width, channels) if last else (n * channels * groups, out_width)
    wide = min(128, triton.next_power_of_2(columns))
    tall = _TILE // wide
    taps_x = triton.cdiv(kw, up[0])
    shift = -padding[2] % up[1]
    samples = ((group - 1) * down[1] + shift + kh - 1) // up[1] + 1
    long = x.element_size() == 2 if last else up[0] > 1
    unrolled = samples * taps_x <= (_UNROLLED_LONG if long else _UNROLLED)
    _fir[(triton.cdiv(rows, tall), triton.cdiv(columns, wide))](
        x, f, fy.contiguous() if separable else f, out, rows, columns, height, width, out_height, out_width, groups,
        padding[0], -padding[2] // up[1], 0, gain, UX=up[0], UY=up[1], DX=down[0], DY=down[1], KW=kw, KH=kh,
        SHIFT=shift, SEPARABLE=separable, FLIP=flip, LAST=last, BIG=max(x.numel(), out.numel()) > 2**31 - _TILE * 128,
        GROUP=group, HELD=(1 if separable else kh) * taps_x <= _HELD, UNROLLED=unrolled,
        CHOSEN=not unrolled and triton.cdiv(kh, up[1]) <= _CHOSEN,
        ROWS=tall, COLUMNS=wide, num_warps=_TILE * x.element_size() // 512 if last else 4,  # last: 16 bytes a thread
    )  # fmt: skip
    return out


def _rows_at_once(kh: int, kw: int, up: int, down: int, separable: bool) -> int:
    """Rows of the output that a program makes of what it loads: whole periods of `up`, and some where they share."""
    shared = down < kh and (separable or kh * kw <= _HELD)
    return max(1, 4 // up) * up if shared else up


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
