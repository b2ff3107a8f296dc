"""grid_sample2d in Triton: a program has some points of a sample and walks over the channels.

A tile is [points, channels]: a point's pixels and weights are found once. Loads of x and the adjoint's atomics go where
the grid says; everything else lies together.
"""

from __future__ import annotations

import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_THREADS = 128  # each has 16 bytes of channels that lie together, or two points


@triton.jit
def _axis(g, size, MODE: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """Weights, slopes, numbers and existence of the two pixels of an axis, as csrc/grid_sample2d.h has them."""
    last = (size - 1).to(g.dtype)
    whole = size.to(g.dtype)
    slope = tl.zeros(g.shape, g.dtype) + 0.5 * (last if ALIGN else whole)
    at = g * slope + 0.5 * last
    if PADDING == 2:
        low = 0.0 if ALIGN else -0.5
        span = last if ALIGN else whole
        away = tl.abs(at - low)
        turns = tl.floor(away / tl.where(span == 0, 1.0, span))
        rest = away - turns * span
        odd = turns != 2 * tl.floor(0.5 * turns)
        slope = tl.where(odd != (at < low), -slope, slope)
        turned = tl.where(odd, low + span - rest, low + rest)
        at = tl.where((span == 0) & (at == at), 0.0, turned)
    if PADDING != 0:
        below = at <= 0
        above = at >= last
        at = tl.where(below, 0.0, tl.where(above, last, at))
        slope = tl.where(below | above, 0.0, slope)
    if MODE == 1:
        up = tl.floor(at + 0.5)
        tie = (up - at == 0.5) & (up != 2 * tl.floor(0.5 * up))  # half to even
        at = tl.where(tie, up - 1, up)
        inside = (at >= 0) & (at <= last)
        first = tl.where(inside, at, 0.0).to(tl.int32)
        none = tl.zeros(at.shape, g.dtype)
        no = inside & (at < 0)
        return tl.where(inside, 1.0, none), none, none, none, first, first * 0, inside, no
    inside = (at >= -1) & (at < whole)  # false for NaN
    at = tl.where(inside, at, 0.0)
    floor = tl.floor(at)
    t = at - floor
    pixel = floor.to(tl.int32)
    near = inside & (pixel >= 0)
    far = inside & (pixel + 1 < size)
    return (
        tl.where(near, 1 - t, 0.0), tl.where(far, t, 0.0), tl.where(near, -slope, 0.0), tl.where(far, slope, 0.0),
        tl.where(near, pixel, 0), tl.where(far, pixel + 1, 0), near, far,
    )  # fmt: skip


@triton.jit
def _points(
    grid_ptr, sample, at, inside, out_height, out_width,
    AFFINE: tl.constexpr, ALIGN: tl.constexpr, acc: tl.constexpr,
):  # fmt: skip
    """The coordinates of points `at` of a sample."""
    if AFFINE:
        column = at % out_width
        row = at // out_width
        wide = out_width.to(acc)
        high = out_height.to(acc)
        u = (2 * column + 1 - out_width).to(acc) / wide
        v = (2 * row + 1 - out_height).to(acc) / high
        if ALIGN:
            u = (2 * column + 1 - out_width).to(acc) / tl.where(wide > 1, wide - 1, 1.0)
            v = (2 * row + 1 - out_height).to(acc) / tl.where(high > 1, high - 1, 1.0)
        theta = grid_ptr + sample * 6
        x = tl.load(theta).to(acc) * u + tl.load(theta + 1).to(acc) * v + tl.load(theta + 2).to(acc)
        y = tl.load(theta + 3).to(acc) * u + tl.load(theta + 4).to(acc) * v + tl.load(theta + 5).to(acc)
    else:
        first = grid_ptr + (sample * (out_height * out_width) + at) * 2
        x = tl.load(first, inside, 0.0).to(acc)
        y = tl.load(first + 1, inside, 0.0).to(acc)
    return x, y


@triton.jit
def _weight(wx, wy, dx, dy, a, b, there, ORDER: tl.constexpr):
    if ORDER == 0:
        w = wx * wy
    elif ORDER == 1:
        w = a * dx * wy + b * wx * dy
    else:
        w = a * dx * dy
    return tl.where(there, w, 0.0)


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "blocks"])
def _walk(
    x_ptr, grid_ptr, along_ptr, y_ptr, out_ptr, channels, height, width, out_height, out_width, blocks,
    WHAT: tl.constexpr, ORDER: tl.constexpr, AFFINE: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ALIGN: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr, BIG: tl.constexpr, POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    # WHAT: 0 samples of x to y, 1 their adjoint of y added to x, 2 derivatives of <y, samples> in the grid to out.
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    sample = tl.program_id(0) // blocks
    at = tl.program_id(0) % blocks * POINTS + tl.arange(0, POINTS)
    out_pixels = out_height * out_width
    inside = at < out_pixels
    if BIG:
        sample = sample.to(tl.int64)
    gx, gy = _points(grid_ptr, sample, at, inside, out_height, out_width, AFFINE, ALIGN, acc)
    wx0, wx1, dx0, dx1, x0, x1, in_x0, in_x1 = _axis(gx, width, MODE, PADDING, ALIGN)
    wy0, wy1, dy0, dy1, y0, y1, in_y0, in_y1 = _axis(gy, height, MODE, PADDING, ALIGN)
    a = wx0
    b = wx0
    if WHAT < 2 and ORDER == 1:
        a = tl.load(along_ptr + (sample * out_pixels + at) * 2, inside, 0.0)
        b = tl.load(along_ptr + (sample * out_pixels + at) * 2 + 1, inside, 0.0)
    if WHAT < 2 and ORDER == 2:
        a = tl.load(along_ptr + sample * out_pixels + at, inside, 0.0)
    in00 = in_x0 & in_y0 & inside
    in10 = in_x1 & in_y0 & inside
    in01 = in_x0 & in_y1 & inside
    in11 = in_x1 & in_y1 & inside
    if WHAT < 2:
        w00 = _weight(wx0, wy0, dx0, dy0, a, b, in00, ORDER)[:, None]
        w10 = _weight(wx1, wy0, dx1, dy0, a, b, in10, ORDER)[:, None]
        w01 = _weight(wx0, wy1, dx0, dy1, a, b, in01, ORDER)[:, None]
        w11 = _weight(wx1, wy1, dx1, dy1, a, b, in11, ORDER)[:, None]
        m00, m10, m01, m11 = w00 != 0, w10 != 0, w01 != 0, w11 != 0
    else:
        m00, m10, m01, m11 = in00[:, None], in10[:, None], in01[:, None], in11[:, None]
        s00 = tl.zeros((POINTS, CHANNELS), acc)
        s10 = tl.zeros((POINTS, CHANNELS), acc)
        s01 = tl.zeros((POINTS, CHANNELS), acc)
        s11 = tl.zeros((POINTS, CHANNELS), acc)
    pixel_step = channels if LAST else 1
    x_channel = 1 if LAST else height * width
    y_channel = 1 if LAST else out_pixels
    if BIG:
        at = at.to(tl.int64)
        y0, y1 = y0.to(tl.int64), y1.to(tl.int64)
    x_ptr += sample * channels * (height * width)
    p00 = ((y0 * width + x0) * pixel_step)[:, None]
    p10 = ((y0 * width + x1) * pixel_step)[:, None]
    p01 = ((y1 * width + x0) * pixel_step)[:, None]
    p11 = ((y1 * width + x1) * pixel_step)[:, None]
    y_ptr += sample * channels * out_pixels
    for start in range(0, channels, CHANNELS):
        k = start + tl.arange(0, CHANNELS)[None, :]
        real = True if EVEN else k < channels
        if BIG:
            k = k.to(tl.int64)
        to = y_ptr + (at * pixel_step)[:, None] + k * y_channel
        from_ = x_ptr + k * x_channel
        if WHAT == 0:
            y = w00 * tl.load(from_ + p00, m00 & real, 0.0).to(acc)
            y += w10 * tl.load(from_ + p10, m10 & real, 0.0).to(acc)
            y += w01 * tl.load(from_ + p01, m01 & real, 0.0).to(acc)
            y += w11 * tl.load(from_ + p11, m11 & real, 0.0).to(acc)
            tl.store(to, y.to(y_ptr.dtype.element_ty), inside[:, None] & real)
        else:
            y = tl.load(to, inside[:, None] & real, 0.0).to(acc)
            if WHAT == 1:
                tl.atomic_add(from_ + p00, w00 * y, m00 & real, sem="relaxed")
                tl.atomic_add(from_ + p10, w10 * y, m10 & real, sem="relaxed")
                tl.atomic_add(from_ + p01, w01 * y, m01 & real, sem="relaxed")
                tl.atomic_add(from_ + p11, w11 * y, m11 & real, sem="relaxed")
            else:
                s00 += tl.where(m00 & real, y * tl.load(from_ + p00, m00 & real, 0.0).to(acc), 0.0)
                s10 += tl.where(m10 & real, y * tl.load(from_ + p10, m10 & real, 0.0).to(acc), 0.0)
                s01 += tl.where(m01 & real, y * tl.load(from_ + p01, m01 & real, 0.0).to(acc), 0.0)
                s11 += tl.where(m11 & real, y * tl.load(from_ + p11, m11 & real, 0.0).to(acc), 0.0)
    if WHAT == 2:
        t00, t10, t01, t11 = tl.sum(s00, 1), tl.sum(s10, 1), tl.sum(s01, 1), tl.sum(s11, 1)
        point = sample * out_pixels + at
        if ORDER == 2:
            mixed = dy0 * (dx0 * t00 + dx1 * t10) + dy1 * (dx0 * t01 + dx1 * t11)
            tl.store(out_ptr + point, mixed, inside)
        else:
            tl.store(out_ptr + 2 * point, wy0 * (dx0 * t00 + dx1 * t10) + wy1 * (dx0 * t01 + dx1 * t11), inside)
            tl.store(out_ptr + 2 * point + 1, dy0 * (wx0 * t00 + wx1 * t10) + dy1 * (wx0 * t01 + wx1 * t11), inside)


def _launch(what, order, x, grid, along, y, out, size, out_size, settings, layout) -> None:
    """One launch; `x` and `y` lie in `layout`, `grid` and `along` are made contiguous here."""
    last = layout == torch.channels_last
    n, channels = x.shape[:2]
    width = min(triton.next_power_of_2(channels), 64) if last else 1
    tile = _THREADS * (16 // y.element_size() if last else 2)
    points = max(tile // width, 4)
    blocks = triton.cdiv(out_size[0] * out_size[1], points)
    mode, padding, align = settings
    most = max(x.numel(), y.numel(), 2 * n * out_size[0] * out_size[1])
    _walk[(n * blocks,)](
        x, grid.contiguous(), None if along is None else along.contiguous(), y, out, channels, *size, *out_size, blocks,
        WHAT=what, ORDER=order, AFFINE=grid.ndim == 3, MODE=mode, PADDING=padding, ALIGN=align, LAST=last,
        EVEN=channels % width == 0, BIG=most >= 2**31 - 2 * tile, POINTS=points, CHANNELS=width,
        num_warps=_THREADS // 32,
    )  # fmt: skip


def _order(along: Tensor | None) -> int:
    return 0 if along is None else 1 if along.shape[3] == 2 else 2


def sample(x: Tensor, grid: Tensor, along: Tensor | None, size, *settings) -> Tensor:
    layout = _check.kept_format(x)
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel():
        x = x.contiguous(memory_format=layout)
        _launch(0, _order(along), x, grid, along, y, None, x.shape[2:], size, settings, layout)
    return y


def adjoint(gy: Tensor, grid: Tensor, along: Tensor | None, size, *settings) -> Tensor:
    if torch.are_deterministic_algorithms_enabled():
        text = "grid_sample2d: on GPUs the gradient in x is summed by atomics, whose order is not deterministic"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(
                f"{text}; you asked for torch.use_deterministic_algorithms(True): sample with "
                "gankernels.backend('reference'), whose sums follow it, or pass it warn_only=True"
            )
        warnings.warn(text)
    layout = _check.kept_format(gy)
    gx = torch.zeros(
        (*gy.shape[:2], *size), dtype=torch.promote_types(gy.dtype, torch.float32), device=gy.device
    ).contiguous(memory_format=layout)
    if gy.numel():
        gy = gy.contiguous(memory_format=layout)
        _launch(1, _order(along), gx, grid, along, gy, None, size, gy.shape[2:], settings, layout)
    return gx.to(gy.dtype)


def products(gy: Tensor, x: Tensor, grid: Tensor, mixed: bool, *settings) -> Tensor:
    layout = _check.kept_format(x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    out = x.new_empty((x.shape[0], *gy.shape[2:], 1 if mixed else 2), dtype=dtype)
    if out.numel():
        x, gy = (t.contiguous(memory_format=layout) for t in (x, gy))
        _launch(2, 2 if mixed else 1, x, grid, None, gy, out, x.shape[2:], gy.shape[2:], settings, layout)
    return out
