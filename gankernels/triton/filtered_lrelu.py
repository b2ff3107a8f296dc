"""filtered_lrelu in Triton: bias, upsampling, activation and downsampling in one launch, for any factors and filters.

A program goes down a strip of the image. It has a number of each column of the upsampled image: it filters rows of x
across, makes the rows of the upsampled image from a window of those, and adds each, activated, to the rows of the
output that meet it, all in registers; a row of the output that is complete is filtered across in shared memory.
Filters that are too long for registers go to `direct`, which makes the upsampled image anew for each output.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.triton.filtered_lrelu_direct import activate, apply, direct, sample
from gankernels.triton.targets import registers
from gankernels.triton.upfirdn2d import _add, _axis, _weight

NONE, WRITE, READ = 0, 1, 2  # what a pass does with the bits
_COLUMNS = 128  # of the upsampled image that a program has, of one channel
_CHANNELS = 8  # side by side in a program for channels_last
_ROWS = 32  # of the output that a program makes
_HOLD = 60  # taps that are kept in registers
_DIRECT = 128


@triton.jit
def _across(
    x_ptr, bias, weights, iy, first, tap, inside, height, width, channels,
    UX: tl.constexpr, KUX: tl.constexpr, BIAS: tl.constexpr, acc_t: tl.constexpr,
):  # fmt: skip
    """Row iy of x at the columns of the upsampled image."""
    line = tl.zeros(inside.shape, acc_t)
    for t in tl.static_range((KUX + UX - 1) // UX):
        ok = inside & (tap + t * UX < KUX)
        line += weights[t] * sample(x_ptr, bias, iy, first + t, ok, height, width, channels, BIAS, acc_t)
    return line


@triton.jit
def _taps(f_ptr, K: tl.constexpr, FLIP: tl.constexpr, acc_t: tl.constexpr):
    """A filter of one axis in correlation order."""
    taps = (_weight(f_ptr, 0, 0, True, K, 1, FLIP, acc_t),)
    for t in tl.static_range(1, K):
        taps += (_weight(f_ptr, t, 0, True, K, 1, FLIP, acc_t),)
    return taps


@triton.jit
def _tap(taps, f_ptr, t: tl.constexpr, K: tl.constexpr, FLIP: tl.constexpr, HOLD: tl.constexpr, acc_t: tl.constexpr):
    """Number t of them, from registers where they are held there."""
    return taps[t] if HOLD else _weight(f_ptr, t, 0, True, K, 1, FLIP, acc_t)


@triton.jit
def _march(
    x_ptr, bias_ptr, fu_ptr, fuy_ptr, fd_ptr, fdy_ptr, y_ptr, bits_ptr, sums_ptr,
    features, channels, height, width, middle_height, middle_width, out_height, out_width,
    pad_ux, pad_uy, pad_dx, pad_dy, tiles_x, tiles_y, blocks, bit_bytes, steps, rows, columns,
    up_gain: tl.float64, above: tl.float64, below: tl.float64, bound: tl.float64,
    UX: tl.constexpr, UY: tl.constexpr, DX: tl.constexpr, DY: tl.constexpr, KUX: tl.constexpr, KUY: tl.constexpr,
    KDX: tl.constexpr, KDY: tl.constexpr, LEAD: tl.constexpr, TAP: tl.constexpr, PERIOD: tl.constexpr,
    SEPARABLE_UP: tl.constexpr, SEPARABLE_DOWN: tl.constexpr, FLIP: tl.constexpr, MODE: tl.constexpr,
    COLUMNS: tl.constexpr, OUTPUTS: tl.constexpr, CHANNELS: tl.constexpr, HOLD: tl.constexpr,
    BIG: tl.constexpr,
):  # fmt: skip
    acc_t: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    BIAS: tl.constexpr = bias_ptr is not None
    NX: tl.constexpr = (KUX + UX - 1) // UX
    NY: tl.constexpr = (KUY + UY - 1) // UY
    HELD: tl.constexpr = (KDY + DY - 1) // DY  # rows of the output that are under way
    tile = tl.program_id(0)
    tile_x = tile % tiles_x
    tile_y = tile // tiles_x % tiles_y
    block = tile // tiles_x // tiles_y % blocks
    plane = tile // tiles_x // tiles_y // blocks
    lane = tl.arange(0, COLUMNS * CHANNELS)
    column = tile_x * columns * DX - pad_dx - LEAD + lane // CHANNELS
    channel = block * CHANNELS + lane % CHANNELS
    top = tile_y * rows * DY - pad_dy
    inside = (column >= 0) & (column < middle_width) & (channel < channels)
    tap, first = _axis(column, pad_ux, UX, 1)
    first_y = (top - pad_uy + TAP) // UY  # divides exactly
    bias = 0.0
    if BIAS:
        feature = tl.where(channels == 1, plane % features, channel)
        bias = tl.load(bias_ptr + feature, channel < channels, 0.0).to(acc_t)
    base = plane.to(tl.int64) * channels
    x_ptr += base * height * width + channel
    bits_ptr += base * middle_height * bit_bytes
    last_x = tile_x == tiles_x - 1
    last_y = tile_y == tiles_y - 1
    above = above.to(acc_t)
    below = below.to(acc_t)
    bound = bound.to(acc_t)
    out_lane = tl.arange(0, OUTPUTS * CHANNELS)
    out_channel = block * CHANNELS + out_lane % CHANNELS
    out_local = out_lane // CHANNELS
    ox = tile_x * columns + out_local
    out_ok = (out_local < columns) & (ox < out_width) & (out_channel < channels)
    # A row that is filtered across lies in shared memory by phases, so that outputs read neighbours. Lanes beyond the
    # outputs read what there is.
    PHASES: tl.constexpr = DX if CHANNELS == 1 and COLUMNS % DX == 0 else 1
    PART: tl.constexpr = COLUMNS // PHASES
    by_phase = lane % PART * PHASES + lane // PART
    begins = tl.minimum(out_local, (COLUMNS - KDX - LEAD) // DX) * (DX // PHASES) * CHANNELS + out_lane % CHANNELS
    if BIG:
        first = first.to(tl.int64)
        ox = ox.to(tl.int64)
        bit_bytes = bit_bytes.to(tl.int64)
    lanes = block * CHANNELS + tl.arange(0, CHANNELS)
    four = tl.arange(0, COLUMNS // 4)  # columns, whose bits are a byte; where they are written, pad_dx is 0
    four_first = tile_x * columns * DX + 4 * four
    four_at = (four_first // 4)[:, None] * channels + lanes[None, :]
    four_owned = ((last_x | (4 * four < columns * DX)) & (four_first < middle_width))[:, None]
    four_owned = four_owned & (lanes < channels)[None, :]
    if y_ptr is not None:
        y_ptr += base * out_height * out_width + out_channel

    weights = (tl.zeros((COLUMNS * CHANNELS,), acc_t),)
    window = (tl.zeros((COLUMNS * CHANNELS,), acc_t),) * NY
    if SEPARABLE_UP:
        weights = (_weight(fu_ptr, tap, 0, tap < KUX, KUX, 1, FLIP, acc_t),)
        for t in tl.static_range(1, NX):
            weights += (_weight(fu_ptr, tap + t * UX, 0, tap + t * UX < KUX, KUX, 1, FLIP, acc_t),)
        # The rows that row 0 meets: where it is the first to meet the last of them, that comes in the loop.
        SHIFT: tl.constexpr = 1 if (TAP + 1) % UY == 0 else 0
        for t in tl.static_range(SHIFT, NY):
            line = _across(
                x_ptr, bias, weights, first_y + t - SHIFT, first, tap, inside, height, width, channels, UX, KUX, BIAS,
                acc_t,
            )  # fmt: skip
            window = _add(window, t, line)
    up_taps = (0.0,)
    down_taps = (0.0,)
    across_taps = (0.0,)
    if HOLD:
        up_taps = _taps(fuy_ptr, KUY, FLIP, acc_t)
        down_taps = _taps(fdy_ptr, KDY, FLIP, acc_t)
        across_taps = _taps(fd_ptr, KDX, FLIP, acc_t)
    sums = (tl.zeros((COLUMNS * CHANNELS if SEPARABLE_DOWN else OUTPUTS * CHANNELS,), acc_t),) * HELD
    all_sums = tl.zeros((OUTPUTS * CHANNELS,), acc_t)
    for step in tl.range(steps):
        for i in tl.static_range(PERIOD):
            r = step * PERIOD + i
            row = top + r
            iy = first_y + step * (PERIOD // UY) + (i + UY - 1 - TAP) // UY  # the first that it meets
            u = tl.zeros((COLUMNS * CHANNELS,), acc_t)
            if SEPARABLE_UP:
                if i % UY == (TAP + 1) % UY:
                    line = _across(
                        x_ptr, bias, weights, iy + NY - 1, first, tap, inside, height, width, channels, UX, KUX, BIAS,
                        acc_t,
                    )  # fmt: skip
                    window = window[1:] + (line,)  # noqa: RUF005 (Triton has no * here)
                for t in tl.static_range(NY):
                    if (TAP + PERIOD * UY - i) % UY + t * UY < KUY:
                        w = _tap(up_taps, fuy_ptr, (TAP + PERIOD * UY - i) % UY + t * UY, KUY, FLIP, HOLD, acc_t)
                        u += w * window[t]
            else:
                for t in tl.static_range(NY):
                    if (TAP + PERIOD * UY - i) % UY + t * UY < KUY:
                        for s in tl.static_range(NX):
                            ok = inside & (tap + s * UX < KUX)
                            tap_y = (TAP + PERIOD * UY - i) % UY + t * UY
                            w = _weight(fu_ptr, tap + s * UX, tap_y, ok, KUX, KUY, FLIP, acc_t)
                            v = sample(x_ptr, bias, iy + t, first + s, ok, height, width, channels, BIAS, acc_t)
                            u += w * v
            u = u * up_gain.to(acc_t)
            there = inside & (row >= 0) & (row < middle_height)
            if MODE == 2:
                byte = tl.load(bits_ptr + (row * bit_bytes + column // 4) * channels + channel, there, 0).to(tl.int32)
                u = apply(u, byte >> (column % 4 * 2), above, below)
            else:
                u, code = activate(u, above, below, bound)
                if MODE == 1:
                    code = tl.where(there, code, 0) << (column % 4 * 2)
                    word = tl.sum(tl.reshape(code, (COLUMNS // 4, 4, CHANNELS)), 1)
                    owned = four_owned & (last_y | (r < rows * DY)) & (row < middle_height)
                    tl.store(bits_ptr + row * bit_bytes * channels + four_at, word.to(tl.uint8), owned)
            u = tl.where(there, u, 0.0)
            if i % DY == 0:
                sums = (tl.zeros(sums[0].shape, acc_t),) + sums[:-1]  # noqa: RUF005
            if SEPARABLE_DOWN:
                for b in tl.static_range(HELD):
                    if b * DY + i % DY < KDY:
                        w = _tap(down_taps, fdy_ptr, b * DY + i % DY, KDY, FLIP, HOLD, acc_t)
                        sums = _add(sums, b, w * u)
            else:
                phases = tl.gather(u, by_phase, 0) if PHASES > 1 else u
                for s in tl.static_range(KDX):
                    part = tl.gather(phases, begins + ((LEAD + s) % PHASES * PART + (LEAD + s) // PHASES) * CHANNELS, 0)
                    for b in tl.static_range(HELD):
                        if b * DY + i % DY < KDY:
                            down_tap = _weight(fd_ptr, s, b * DY + i % DY, True, KDX, KDY, FLIP, acc_t)
                            sums = _add(sums, b, down_tap * part)
            if i % DY == DY - 1:
                o = step * (PERIOD // DY) + i // DY - (HELD - 1)
                oy = tile_y * rows + o
                if (o >= 0) & (o < rows) & (oy < out_height):
                    if SEPARABLE_DOWN:
                        total = tl.zeros((OUTPUTS * CHANNELS,), acc_t)
                        dealt = tl.gather(sums[HELD - 1], by_phase, 0) if PHASES > 1 else sums[HELD - 1]
                        for s in tl.static_range(KDX):
                            at = begins + ((LEAD + s) % PHASES * PART + (LEAD + s) // PHASES) * CHANNELS
                            total += _tap(across_taps, fd_ptr, s, KDX, FLIP, HOLD, acc_t) * tl.gather(dealt, at, 0)
                    else:
                        total = sums[HELD - 1]
                    if y_ptr is not None:
                        tl.store(y_ptr + (oy * out_width + ox) * channels, total.to(y_ptr.dtype.element_ty), out_ok)
                    if sums_ptr is not None:
                        all_sums += tl.where(out_ok, total, 0.0)
    if sums_ptr is not None:
        whole = tl.sum(tl.reshape(all_sums, (OUTPUTS, CHANNELS)), 0)
        tl.store(sums_ptr + (base + lanes) * (tiles_x * tiles_y) + tile_y * tiles_x + tile_x, whole, lanes < channels)


def _geometry(size, channels, kdx, down, up, pad_down):
    """(columns, outputs, channels of a program; outputs across, rows of outputs) of _march."""
    (out_height, out_width), lanes = size, min(_CHANNELS, triton.next_power_of_2(channels))
    lead, share = -pad_down[0] % 4, 4 // math.gcd(4, down[0])  # outputs that begin at whole bytes
    least = lead + (share - 1) * down[0] + kdx
    wanted = max(least, min(_COLUMNS // lanes, lead + (out_width + share - 1) * down[0] + kdx))
    columns = max(triton.next_power_of_2(wanted), triton.cdiv(32, lanes))
    across = (columns - lead - kdx) // down[0] // share * share + share
    if lead + (across - 1) * down[0] + kdx > columns:
        across -= share
    whole = up[1] // math.gcd(up[1], down[1])  # rows after which the taps are those of row 0 again
    rows = max(1, min(_ROWS, out_height) // whole) * whole
    return columns, triton.next_power_of_2(across), lanes, across, rows


def run(
    x: Tensor, bias: Tensor | None, bits: Tensor | None, y: Tensor | None, fu: Tensor, fuy: Tensor | None, fd: Tensor,
    fdy: Tensor | None, up: list[int], down: list[int], pad_up: list[int], pad_down: list[int], middle: list[int],
    size: list[int], flip: bool, up_gain: float, gain: float, slope: float, bound: float, layout: torch.memory_format,
    mode: int, want_sums: bool,
) -> Tensor | None:  # fmt: skip
    """Fills y and, where they are written, bits; returns the sums of each channel of each part of the image.

    `middle` and `size` are [H, W] of the upsampled image and of y; bits are [N, C, rows, bytes], or for channels_last
    [N, rows, bytes, C].
    """
    n, features, height, width = x.shape
    last = layout == torch.channels_last
    channels, planes = (features, n) if last else (1, n * features)
    x, fu, fd = x.contiguous(memory_format=layout), fu.contiguous(), fd.contiguous()
    kuy, kux = fu.shape if fuy is None else (fuy.shape[0], fu.shape[0])
    kdy, kdx = fd.shape if fdy is None else (fdy.shape[0], fd.shape[0])
    bit_bytes = triton.cdiv(middle[1], 4)
    tensors = (
        x, None if bias is None else bias.contiguous(), fu, fu if fuy is None else fuy.contiguous(), fd,
        fd if fdy is None else fdy.contiguous(), y, x if bits is None else bits,
    )  # fmt: skip
    pads = pad_up[0], pad_up[2], pad_down[0], pad_down[2]
    numbers = (1 if last else features, channels, height, width, *middle, *size, *pads)
    flags = dict(
        SEPARABLE_UP=fuy is not None, SEPARABLE_DOWN=fdy is not None, FLIP=flip, MODE=mode,
        BIG=max(height * width, size[0] * size[1], middle[0] * bit_bytes) * channels > 2**31 - 2**16,
    )  # fmt: skip
    scales = (up_gain, gain, gain * slope, bound)
    acc = torch.promote_types(x.dtype, torch.float32)
    period = math.lcm(up[1], down[1])
    held = triton.cdiv(kuy, up[1]) + triton.cdiv(kdy, down[1])
    columns, outputs, lanes, across, rows = _geometry(size, channels, kdx, down, up, pad_down)
    work = period * (held + (0 if fuy is not None else kuy * kux // (up[0] * up[1])) + (0 if fdy is not None else kdx))
    if period <= 16 and held <= 64 and kdx <= 64 and work <= 400 and columns * lanes <= 1024:
        tiles_x, tiles_y = triton.cdiv(size[1], across), triton.cdiv(size[0], rows)
        blocks = triton.cdiv(channels, lanes)
        steps = triton.cdiv((rows - 1 + triton.cdiv(kdy, down[1])) * down[1], period)
        sums = x.new_empty((n, features, tiles_x * tiles_y), dtype=acc) if want_sums else None
        # Each thread reads all taps of a filter of two axes: two warps of one channel have more outputs for them than
        # four. By itself ptxas allots a few registers too few, and spills on sm_80.
        fewer = fuy is not None and fdy is None and columns * lanes <= _COLUMNS and acc == torch.float32
        most, room = (2, 168) if fewer else (8, 128)
        _march[(tiles_x * tiles_y * blocks * planes,)](
            *tensors, sums, *numbers, tiles_x, tiles_y, blocks, bit_bytes, steps, rows, across, *scales,
            UX=up[0], UY=up[1], DX=down[0], DY=down[1], KUX=kux, KUY=kuy, KDX=kdx, KDY=kdy, LEAD=-pad_down[0] % 4,
            TAP=(pad_up[2] + pad_down[2]) % up[1], PERIOD=period, COLUMNS=columns, OUTPUTS=outputs, CHANNELS=lanes,
            HOLD=fuy is not None and fdy is not None and kuy + kdy + kdx <= _HOLD,
            num_warps=max(1, min(most, columns * lanes // 32)), **flags, **registers(room),
        )  # fmt: skip
        return sums
    y_parts = triton.cdiv(size[0] * size[1], _DIRECT)
    parts = y_parts + (triton.cdiv(middle[0] * bit_bytes, _DIRECT) if mode == WRITE else 0)
    sums = x.new_empty((n, features, y_parts), dtype=acc) if want_sums else None
    direct[(parts * channels * planes,)](
        *tensors, sums, *numbers, parts, y_parts, bit_bytes, *up, *down, kux, kuy, kdx, kdy, *scales, **flags,
        TILE=_DIRECT, num_warps=4,
    )  # fmt: skip
    return sums
