"""pixel_shuffle_act in Triton: value, backward and double backward are one launch each; PyTorch adds up block sums."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check
from gankernels.triton.activations import bias_act_derivative

_TILE = 1024  # elements that a program works on at once
_PROGRAMS = 1024  # that fill a large GPU
_STEPS = 4


# ROWS: a tile of x is [positions, R channels, VEC columns] and of y [positions, VEC R columns], rows of each. Else both
# are [pixels, channels of x].
@triton.jit
def _as_y(t, ROWS: tl.constexpr, P: tl.constexpr, R: tl.constexpr, VEC: tl.constexpr):
    if ROWS:
        return tl.reshape(tl.permute(t, (0, 2, 1)), (P, VEC * R))
    else:
        return t


@triton.jit
def _load_y(ptr, at, known, ROWS: tl.constexpr, P: tl.constexpr, R: tl.constexpr, VEC: tl.constexpr):
    t = tl.load(ptr + at, known, 0.0)
    if ROWS:
        return tl.permute(tl.reshape(t, (P, VEC, R)), (0, 2, 1))
    else:
        return t


@triton.jit
def _numbers(ptr, channel, inside, ROWS: tl.constexpr, acc: tl.constexpr):
    if ptr is None:
        t = tl.zeros(channel.shape, acc)
    else:
        t = tl.load(ptr + channel, inside, 0.0).to(acc)
    return t[None, :, None] if ROWS else t[None, :]


@triton.jit
def _shuffle(
    ref_ptr, bias_ptr, g_ptr, v_ptr, v_bias_ptr, out_ptr, out_g_ptr, sums_ptr, channels, height, width, positions,
    share, blocks, factor, alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    K: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr, OUTPUT: tl.constexpr, LAST: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, BIG: tl.constexpr, P: tl.constexpr, R: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    # Order 0: out = y of ref = x. 1: out = g f', as x. 2, with q = v + v_bias: out_g = q f', as y; out = q g f'', as x.
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    alpha, gain, clamp = alpha.to(acc), gain.to(acc), clamp.to(acc)
    block = tl.program_id(0) % blocks
    split = tl.program_id(0) // blocks
    channel = block * R + tl.arange(0, R)
    inside = channel < channels
    bias = _numbers(bias_ptr, channel, inside, ROWS, acc)
    v_bias = _numbers(v_bias_ptr, channel, inside, ROWS, acc)
    all = factor * factor
    c = channel // all
    i = channel % all // factor
    j = channel % factor
    if ROWS:
        total = tl.zeros((P, R, VEC), acc)
    else:
        total = tl.zeros((P, R), acc)
    begin = split.to(tl.int64) * share if BIG else split * share
    end = tl.minimum(begin + share, positions)
    for start in range(begin, end, P):
        at = start + tl.arange(0, P)
        if ROWS:  # `width` in packs of VEC; a block's channels are those of a row within the square
            row = at // width
            pack = at % width
            line = row % height
            plane = (row // height * channels)[:, None] + channel[None, :]
            x_at = (plane * height + line[:, None]) * width + pack[:, None]
            x_at = x_at[:, :, None] * VEC + tl.arange(0, VEC)[None, None, :]
            upper = block // factor + row // height * (channels // all)
            y_at = ((upper * height + line) * factor + block % factor) * width + pack
            y_at = y_at[:, None] * (VEC * R) + tl.arange(0, VEC * R)[None, :]
            known = (at < end)[:, None]
            x_known = known[:, :, None]
        else:
            sample = at // (height * width)
            line = at // width % height
            column = at % width
            known = (at < end)[:, None] & inside[None, :]
            x_known = known
            y = (line * factor)[:, None] + i[None, :]
            x = (column * factor)[:, None] + j[None, :]
            outer = channels // all
            if LAST:
                x_at = at[:, None] * channels + channel[None, :]
                y_at = ((sample[:, None] * (height * factor) + y) * (width * factor) + x) * outer + c[None, :]
            else:
                x_at = (sample[:, None] * channels + channel[None, :]) * (height * width)
                x_at += (line * width + column)[:, None]
                y_at = ((sample[:, None] * outer + c[None, :]) * (height * factor) + y) * (width * factor) + x
        u = tl.zeros(total.shape, acc)
        if ref_ptr is not None:
            if OUTPUT:
                u += _load_y(ref_ptr, y_at, known, ROWS, P, R, VEC).to(acc)
            else:
                u += tl.load(ref_ptr + x_at, x_known, 0.0).to(acc)
        u += bias
        if K == 0:
            out = bias_act_derivative(u, u, alpha, gain, clamp, ACT, 0, CLAMP)
            tl.store(out_ptr + y_at, _as_y(out.to(out_ptr.dtype.element_ty), ROWS, P, R, VEC), known)
        else:
            g = _load_y(g_ptr, y_at, known, ROWS, P, R, VEC).to(acc)
            if K == 1:
                out = bias_act_derivative(g, u, alpha, gain, clamp, ACT, 1, CLAMP)
            else:
                q = tl.zeros(total.shape, acc) + v_bias
                if v_ptr is not None:
                    q += tl.load(v_ptr + x_at, x_known, 0.0).to(acc)
                if out_g_ptr is not None:
                    out_g = bias_act_derivative(q, u, alpha, gain, clamp, ACT, 1, CLAMP)
                    tl.store(out_g_ptr + y_at, _as_y(out_g.to(out_g_ptr.dtype.element_ty), ROWS, P, R, VEC), known)
                out = bias_act_derivative(q * g, u, alpha, gain, clamp, ACT, 2, CLAMP)
            if out_ptr is not None:
                tl.store(out_ptr + x_at, out.to(out_ptr.dtype.element_ty), x_known)
            if sums_ptr is not None:
                total += tl.where(x_known, out, 0.0)
    if sums_ptr is not None:
        if ROWS:
            sums = tl.sum(tl.sum(total, 2), 0)
        else:
            sums = tl.sum(total, 0)
        tl.store(sums_ptr + split * channels + channel, sums, inside)


class _Call:
    """A call's layout and sizes; `like` is x, or y where `shuffled`."""

    def __init__(self, like: Tensor, r: int, shuffled: bool):
        self.like, self.r, self.layout = like, r, _check.kept_format(like)
        n, c, h, w = like.shape
        self.x_shape = (n, c * r * r, h // r, w // r) if shuffled else (n, c, h, w)
        self.y_shape = (n, c, h, w) if shuffled else (n, c // (r * r), h * r, w * r)

    def dense(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else t.contiguous(memory_format=self.layout)

    def fresh(self, shape: tuple, wanted: bool = True) -> Tensor | None:
        like = self.like
        make = torch.empty if wanted else (lambda *args, **kwargs: None)
        return make(shape, dtype=like.dtype, device=like.device, memory_format=self.layout)

    def or_none(self, t: Tensor | None) -> Tensor:
        return self.like.new_empty(0) if t is None else t

    def run(
        self, k, ref, bias, g, v, v_bias, out, out_g, is_output, act, alpha, gain, clamp, want_sums=False
    ) -> Tensor:
        """Results that are None are not wanted; returns the sums over each channel of x."""
        n, channels, h, w = self.x_shape
        if not self.like.numel():
            return self.like.new_zeros(channels if want_sums else 0)
        last, r, item = self.layout == torch.channels_last, self.r, self.like.element_size()
        rows, vec = not last and r in (2, 4, 8), 1
        while rows and vec < 16 // item and w % (2 * vec) == 0:
            vec *= 2
        if rows:
            wide, width = r, w // vec
        else:
            wide, width = (min(64, triton.next_power_of_2(channels)) if last else 1), w
        tall, blocks, positions = _TILE // (wide * vec), triton.cdiv(channels, wide), n * h * width
        splits = max(1, min(triton.cdiv(_PROGRAMS, blocks), positions // (tall * _STEPS)))
        share = triton.cdiv(triton.cdiv(positions, splits), tall) * tall
        splits = triton.cdiv(positions, share)
        sums = None
        if want_sums:
            exact = torch.promote_types(self.like.dtype, torch.float32)
            sums = torch.empty((splits, channels), dtype=exact, device=self.like.device)
        bias, v_bias = (t if t is None else t.contiguous() for t in (bias, v_bias))
        _shuffle[(blocks * splits,)](
            self.dense(ref), bias, self.dense(g), self.dense(v), v_bias, out, out_g, sums, channels, h, width,
            positions, share, blocks, r, alpha, gain, clamp,
            K=k, ACT=act, CLAMP=clamp >= 0, OUTPUT=is_output, LAST=last, ROWS=rows,
            WIDE=self.like.dtype == torch.float64, BIG=self.like.numel() > 2**31 - _TILE * splits,
            P=tall, R=wide, VEC=vec, num_warps=4,
        )  # fmt: skip
        if sums is None:
            return self.like.new_empty(0)
        return (sums[0] if splits == 1 else sums.sum(0)).to(self.like.dtype)


def value(x: Tensor, bias: Tensor | None, r: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    call = _Call(x, r, False)
    y = call.fresh(call.y_shape)
    call.run(0, x, bias, None, None, None, y, None, False, act, alpha, gain, clamp)
    return y


def backward(g, ref, bias, ref_is_output, r, act, alpha, gain, clamp, wanted) -> tuple[Tensor, Tensor]:
    """`wanted`: of x and bias."""
    call = _Call(g if ref is None else ref, r, ref is None or ref_is_output)
    gx = call.fresh(call.x_shape, wanted[0])
    sums = call.run(1, ref, bias, g, None, None, gx, None, ref_is_output, act, alpha, gain, clamp, wanted[1])
    return call.or_none(gx), sums


def double_backward(
    v, v_bias, g, ref, bias, ref_is_output, r, act, alpha, gain, clamp, wanted
) -> tuple[Tensor, Tensor, Tensor]:
    """`wanted`: of g, ref (which is x) and bias."""
    call = _Call(g if ref is None else ref, r, ref is None or ref_is_output)
    out_g, out = call.fresh(call.y_shape, wanted[0]), call.fresh(call.x_shape, wanted[1])
    numbers = act, alpha, gain, clamp
    sums = call.run(2, ref, bias, g, v, v_bias, out, out_g, ref_is_output, *numbers, wanted[2])
    return call.or_none(out_g), call.or_none(out), sums
