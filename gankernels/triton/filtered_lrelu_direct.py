"""filtered_lrelu in Triton for filters that registers cannot hold, and what its kernels share."""

from __future__ import annotations

import triton
import triton.language as tl

from gankernels.triton.upfirdn2d import _axis, _weight


@triton.jit
def activate(u, above, below, bound):
    """The activated value and its two bits."""
    v = u * tl.where(u > 0, above, below)
    code = tl.where(u > 0, 0, 1) | tl.where((v > bound) | (v < -bound), 2, 0)
    return tl.where(v > bound, bound, tl.where(v < -bound, -bound, v)), code


@triton.jit
def apply(u, code, above, below):
    """What an activation with these bits does to a small change of its argument."""
    return tl.where((code & 2) != 0, 0.0, u * tl.where((code & 1) != 0, below, above))


@triton.jit
def sample(x_ptr, bias, iy, ix, ok, height, width, channels, BIAS: tl.constexpr, acc_t: tl.constexpr):
    """x + bias, zero outside the image."""
    ok = ok & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    v = tl.load(x_ptr + (iy * width + ix) * channels, ok, 0.0).to(acc_t)
    return tl.where(ok, v + bias, 0.0) if BIAS else v


@triton.jit
def _upsampled(
    x_ptr, bias, fu_ptr, fuy_ptr, row, column, ok, height, width, channels, pad_x, pad_y, KUX, KUY, UX, UY,
    SEPARABLE: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr, acc_t: tl.constexpr,
):  # fmt: skip
    """Samples of the upsampled image, without its gain."""
    tap_y, first_y = _axis(row, pad_y, UY, 1)
    tap_x, first_x = _axis(column, pad_x, UX, 1)
    u = tl.zeros(ok.shape, acc_t)
    for t in range((KUY + UY - 1) // UY):
        y_at = tap_y + t * UY
        line = tl.zeros(ok.shape, acc_t)
        for s in range((KUX + UX - 1) // UX):
            x_at = tap_x + s * UX
            met = ok & (y_at < KUY) & (x_at < KUX)
            w = _weight(fu_ptr, x_at, 0 if SEPARABLE else y_at, met, KUX, 1 if SEPARABLE else KUY, FLIP, acc_t)
            line += w * sample(x_ptr, bias, first_y + t, first_x + s, met, height, width, channels, BIAS, acc_t)
        if SEPARABLE:
            line = tl.where(y_at < KUY, line * _weight(fuy_ptr, 0, y_at, y_at < KUY, 1, KUY, FLIP, acc_t), 0.0)
        u += line
    return u


@triton.jit
def direct(
    x_ptr, bias_ptr, fu_ptr, fuy_ptr, fd_ptr, fdy_ptr, y_ptr, bits_ptr, sums_ptr,
    features, channels, height, width, middle_height, middle_width, out_height, out_width,
    pad_ux, pad_uy, pad_dx, pad_dy, parts, y_parts, bit_bytes, UX, UY, DX, DY, KUX, KUY, KDX, KDY,
    up_gain: tl.float64, above: tl.float64, below: tl.float64, bound: tl.float64,
    SEPARABLE_UP: tl.constexpr, SEPARABLE_DOWN: tl.constexpr, FLIP: tl.constexpr, MODE: tl.constexpr,
    BIG: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A number of y, or a byte of bits, of one channel of one plane, a lane."""
    acc_t: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    BIAS: tl.constexpr = bias_ptr is not None
    part = tl.program_id(0) % parts
    plane = tl.program_id(0) // parts // channels
    channel = tl.program_id(0) // parts % channels
    base = plane.to(tl.int64) * channels
    above = above.to(acc_t)
    below = below.to(acc_t)
    bound = bound.to(acc_t)
    gain = up_gain.to(acc_t)
    bias = 0.0
    if BIAS:
        bias = tl.load(bias_ptr + tl.where(channels == 1, plane % features, channel)).to(acc_t)
    x_ptr += base * height * width + channel
    bits_ptr += base * middle_height * bit_bytes + channel
    i = tl.arange(0, TILE)
    if BIG:
        i = i.to(tl.int64)
    if part < y_parts:
        i += part * TILE
        ok = i < out_height * out_width
        top = i // out_width * DY - pad_dy
        left = i % out_width * DX - pad_dx
        total = tl.zeros((TILE,), acc_t)
        for t in range(KDY):
            row = top + t
            for s in range(KDX):
                column = left + s
                met = ok & (row >= 0) & (row < middle_height) & (column >= 0) & (column < middle_width)
                u = gain * _upsampled(
                    x_ptr, bias, fu_ptr, fuy_ptr, row, column, met, height, width, channels, pad_ux, pad_uy, KUX, KUY,
                    UX, UY, SEPARABLE_UP, FLIP, BIAS, acc_t,
                )  # fmt: skip
                if MODE == 2:
                    byte = tl.load(bits_ptr + (row * bit_bytes + column // 4) * channels, met, 0).to(tl.int32)
                    u = apply(u, byte >> (column % 4 * 2).to(tl.int32), above, below)
                else:
                    u, code = activate(u, above, below, bound)
                if SEPARABLE_DOWN:
                    w = _weight(fd_ptr, s, 0, True, KDX, 1, FLIP, acc_t)
                    w *= _weight(fdy_ptr, 0, t, True, 1, KDY, FLIP, acc_t)
                else:
                    w = _weight(fd_ptr, s, t, True, KDX, KDY, FLIP, acc_t)
                total += tl.where(met, w * u, 0.0)
        if y_ptr is not None:
            to = y_ptr + base * out_height * out_width + channel + i * channels
            tl.store(to, total.to(y_ptr.dtype.element_ty), ok)
        if sums_ptr is not None:
            tl.store(sums_ptr + (base + channel) * y_parts + part, tl.sum(tl.where(ok, total, 0.0), 0))
    else:
        i += (part - y_parts) * TILE
        row = i // bit_bytes
        word = tl.zeros((TILE,), tl.int32)
        for k in tl.static_range(4):
            column = i % bit_bytes * 4 + k
            ok = (row < middle_height) & (column < middle_width)
            u = gain * _upsampled(
                x_ptr, bias, fu_ptr, fuy_ptr, row, column, ok, height, width, channels, pad_ux, pad_uy, KUX, KUY, UX,
                UY, SEPARABLE_UP, FLIP, BIAS, acc_t,
            )  # fmt: skip
            u, code = activate(u, above, below, bound)
            word |= tl.where(ok, code << (2 * k), 0)
        tl.store(bits_ptr + i * channels, word.to(tl.uint8), row < middle_height)
