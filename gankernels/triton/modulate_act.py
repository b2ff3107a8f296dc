"""modulate_act in Triton: value, backward and double backward are one launch each; PyTorch adds up the sums of blocks.

An image is seen as [samples, outer, inner] in memory: channels and pixels, or pixels and channels where these are last.
A program takes COLUMNS of a sample's inner axis and walks along its outer one, ROWS at a time: sums over the outer axis
stay in registers, those over the inner one are written at each step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check
from gankernels.triton.activations import bias_act_derivative
from gankernels.triton.targets import registers

_TILE = (1024, 1024, 512)  # elements that a program works on at once, by order of derivative
_PROGRAMS = 1024  # that fill a large GPU
_MOST_STEPS = 16


@triton.jit
def _added(total, ptr, at, known):
    """`total` and the numbers along an axis, where there are any."""
    if ptr is None:
        return total
    else:
        return total + tl.load(ptr + at, known, 0.0).to(total.dtype)


@triton.jit
def _line(ptr, at, known, otherwise: tl.constexpr, acc: tl.constexpr):
    if ptr is None:
        return tl.full(at.shape, otherwise, acc)
    else:
        return tl.load(ptr + at, known, 0.0).to(acc)


@triton.jit
def _row_sums(v):
    # Not of bare products: added to another lane's in one fma, unrounded, one would differ from lane to lane.
    return tl.sum(v + 0.0, 1)


@triton.jit
def _modulate(
    x_ptr, g_ptr, h_ptr, out_ptr, out_g_ptr, scale_ptr, bias_ptr, noise_ptr, h_scale_ptr, h_bias_ptr, h_noise_ptr,
    scale_sums_ptr, bias_sums_ptr, noise_sums_ptr, outer, inner, outer_blocks, inner_blocks, rows, noise_pitch,
    h_noise_pitch, alpha: tl.float64, gain: tl.float64, clamp: tl.float64,
    K: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr, SMOOTH: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # u = scale x + noise + bias. Order 0: f(u). 1: d = g f'(u), out = scale d. 2, of cotangents h, h_scale, h_noise,
    # h_bias: q = scale h + h_scale x + h_noise + h_bias, out_g = q f'(u), out = h_scale d + scale g q f''(u).
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    alpha, gain, clamp = alpha.to(acc), gain.to(acc), clamp.to(acc)
    place = tl.program_id(0)
    inner_block = place % inner_blocks
    outer_block = place // inner_blocks % outer_blocks
    sample = (place // inner_blocks // outer_blocks).to(tl.int64)
    base = sample * outer * inner
    column = inner_block * COLUMNS + tl.arange(0, COLUMNS)
    in_columns = column < inner
    # Numbers along the columns; each kind lies along one axis.
    if LAST:
        c_scale = _line(scale_ptr, sample * inner + column, in_columns, 1.0, acc)[None, :]
        c_shift = _line(bias_ptr, column, in_columns, 0.0, acc)[None, :]
        c_h_scale = _line(h_scale_ptr, sample * inner + column, in_columns, 0.0, acc)[None, :]
        c_h_shift = _line(h_bias_ptr, column, in_columns, 0.0, acc)[None, :]
    else:
        c_scale = tl.full((1, COLUMNS), 1.0, acc)
        c_shift = _line(noise_ptr, sample * noise_pitch + column, in_columns, 0.0, acc)[None, :]
        c_h_scale = tl.full((1, COLUMNS), 1.0, acc)
        c_h_shift = _line(h_noise_ptr, sample * h_noise_pitch + column, in_columns, 0.0, acc)[None, :]
    zero = tl.zeros((ROWS, COLUMNS), acc)
    column_d, column_dx = zero, zero
    begin = outer_block * rows
    end = tl.minimum(begin + rows, outer)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        in_rows = row < end
        mask = None if EVEN else in_rows[:, None] & in_columns[None, :]
        row_at = row.to(tl.int64) if BIG else row
        at = base + (row_at * inner)[:, None] + column[None, :]
        scale, shift, h_scale, h_shift = c_scale, c_shift, c_h_scale, c_h_shift
        if LAST:
            shift = _added(shift, noise_ptr, sample * noise_pitch + row[:, None], in_rows[:, None])
            h_shift = _added(h_shift, h_noise_ptr, sample * h_noise_pitch + row[:, None], in_rows[:, None])
        else:
            scale = _line(scale_ptr, sample * outer + row, in_rows, 1.0, acc)[:, None]
            shift = _added(shift, bias_ptr, row[:, None], in_rows[:, None])
            h_scale = _line(h_scale_ptr, sample * outer + row, in_rows, 0.0, acc)[:, None]
            h_shift = _added(h_shift, h_bias_ptr, row[:, None], in_rows[:, None])
        x = zero
        if x_ptr is not None:
            x = tl.load(x_ptr + at, mask, None if EVEN else 0.0).to(acc)
        u = scale * x + shift
        if K == 0:
            y = bias_act_derivative(zero, u, alpha, gain, clamp, ACT, 0, CLAMP)
            tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask)
        else:
            g = tl.load(g_ptr + at, mask, None if EVEN else 0.0).to(acc)
            d = bias_act_derivative(g, u, alpha, gain, clamp, ACT, 1, CLAMP)
            if K == 1:
                out = scale * d
                dx = d * x
            else:
                h = zero
                if h_ptr is not None:
                    h = tl.load(h_ptr + at, mask, None if EVEN else 0.0).to(acc)
                q = scale * h + h_scale * x + h_shift
                if out_g_ptr is not None:
                    out_g = bias_act_derivative(q, u, alpha, gain, clamp, ACT, 1, CLAMP)
                    tl.store(out_g_ptr + at, out_g.to(out_g_ptr.dtype.element_ty), mask)
                out = h_scale * d
                dx = d * h
                d = zero
                if SMOOTH:
                    d = bias_act_derivative(g * q, u, alpha, gain, clamp, ACT, 2, CLAMP)
                    out += scale * d
                    dx += d * x
            if out_ptr is not None:
                tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask)
            # A block's sums: of shift and scale along the columns, or written for each row.
            to = (sample * inner_blocks + inner_block) * outer + row
            if LAST:
                column_d += d
                column_dx += dx
                if noise_sums_ptr is not None:
                    tl.store(noise_sums_ptr + to, _row_sums(d), in_rows)
            else:
                column_d += d
                if bias_sums_ptr is not None:
                    tl.store(bias_sums_ptr + to, _row_sums(d), in_rows)
                if scale_sums_ptr is not None:
                    tl.store(scale_sums_ptr + to, _row_sums(dx), in_rows)
    to = (sample * outer_blocks + outer_block) * inner + column
    if LAST:
        if bias_sums_ptr is not None:
            tl.store(bias_sums_ptr + to, tl.sum(column_d, 0), in_columns)
        if scale_sums_ptr is not None:
            tl.store(scale_sums_ptr + to, tl.sum(column_dx, 0), in_columns)
    else:
        if noise_sums_ptr is not None:
            tl.store(noise_sums_ptr + to, tl.sum(column_d, 0), in_columns)


class _Call:
    """How a kernel of order `k` goes over images like `like`, and its launch."""

    def __init__(self, like: Tensor, k: int):
        self.k, self.like = k, like
        n, c, h, w = like.shape
        self.format = _check.kept_format(like)
        self.last = self.format == torch.channels_last or h * w == 1
        self.outer, self.inner = (h * w, c) if self.last else (c, h * w)
        self.columns = min(128 if self.last else 256, triton.next_power_of_2(max(1, self.inner)))
        self.tall = _TILE[k] // self.columns
        self.inner_blocks = triton.cdiv(self.inner, self.columns)
        steps = triton.cdiv(self.outer, self.tall)
        each = max(1, min(steps, _MOST_STEPS, n * self.inner_blocks * steps // _PROGRAMS))
        self.rows = each * self.tall
        self.outer_blocks = triton.cdiv(self.outer, self.rows)
        self.exact = torch.promote_types(like.dtype, torch.float32)

    def image(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else t.contiguous(memory_format=self.format)

    def fresh(self, wanted: bool = True) -> Tensor | None:
        return torch.empty_like(self.like, memory_format=self.format) if wanted else None

    def sums(self, wanted: bool, of_channels: bool) -> Tensor | None:
        """Room for a block's sums each: [samples, blocks summed over, what is left]."""
        if not wanted:
            return None
        along_columns = of_channels == self.last
        shape = (self.outer_blocks, self.inner) if along_columns else (self.inner_blocks, self.outer)
        make = torch.empty if self.like.numel() else torch.zeros
        return make((self.like.shape[0], *shape), dtype=self.exact, device=self.like.device)

    def total(self, sums: Tensor | None, shape: tuple, shared: bool) -> Tensor:
        """The sums of all blocks, where `shared` of all samples too."""
        if sums is None:
            return self.like.new_empty(0, dtype=self.exact)
        if shared and sums.shape[0] != 1:
            return sums.sum((0, 1)).view(shape)
        return (sums if sums.shape[1] == 1 else sums.sum(1)).view(shape)

    def run(self, x, g, h, out, out_g, scale, noise, bias, h_scale, h_noise, h_bias, sums, act, alpha, gain, clamp):
        if not self.like.numel():
            return
        pitch, h_pitch = (0 if t is None or t.shape[0] == 1 else self.like[0, 0].numel() for t in (noise, h_noise))
        numbers = [t if t is None else t.contiguous() for t in (scale, bias, noise, h_scale, h_bias, h_noise)]
        samples = self.like.shape[0]
        _modulate[(samples * self.outer_blocks * self.inner_blocks,)](
            x, g, h, out, out_g, *numbers, *sums, self.outer, self.inner, self.outer_blocks, self.inner_blocks,
            self.rows, pitch, h_pitch, alpha, gain, clamp,
            K=self.k, ACT=act, CLAMP=clamp >= 0, SMOOTH=act not in ("linear", "relu", "lrelu"), LAST=self.last,
            WIDE=self.exact == torch.float64, BIG=self.outer * self.inner > 2**31 - _TILE[0] * _MOST_STEPS,
            EVEN=self.outer % self.rows == 0 and self.inner % self.columns == 0, ROWS=self.tall, COLUMNS=self.columns,
            num_warps=4, **(registers(80, 100) if self.k and self.last else {}),
        )  # fmt: skip


def _write(call: _Call, x: Tensor, y: Tensor, scale, noise, bias, *numbers) -> None:
    none = (None,) * 3
    call.run(x, None, None, y, None, scale, noise, bias, *none, none, *numbers)


def value(x, scale, noise, bias, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    call = _Call(x, 0)
    y = call.fresh()
    _write(call, call.image(x), y, scale, noise, bias, act, alpha, gain, clamp)
    return y


def value_in_place(x, scale, noise, bias, act: str, alpha: float, gain: float, clamp: float) -> None:
    call = _Call(x, 0)
    if not x.is_contiguous(memory_format=call.format):
        raise ValueError(f"modulate_act_: x has strides {x.stride()}, expected a dense tensor")
    _write(call, x, x, scale, noise, bias, act, alpha, gain, clamp)


def _needed(x: Tensor | None, act: str, clamp: float, by_x: bool, what: str) -> None:
    if x is None and (by_x or act != "linear" or clamp >= 0):
        raise ValueError(f"{what}: x is None, expected the input: the slope or the scale's gradient depends on it")


def _results(call: _Call, sums: tuple, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of scale, noise and bias from their blocks' sums, kept in the order scale, bias, noise."""
    n, c = call.like.shape[:2]
    shape = () if noise is None else tuple(noise.shape)
    return (
        call.total(sums[0], (n, c), False),
        call.total(sums[2], shape, noise is not None and noise.shape[0] != n),
        call.total(sums[1], (c,), True),
    )


def backward(
    g, x, scale, noise, bias, act: str, alpha: float, gain: float, clamp: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _needed(x, act, clamp, wanted[1], "modulate_act_backward")
    call = _Call(g if x is None else x, 1)
    gx = call.fresh(wanted[0])
    sums = call.sums(wanted[1], True), call.sums(wanted[3], True), call.sums(wanted[2], False)
    call.run(
        call.image(x), call.image(g), None, gx, None, scale, noise, bias, None, None, None, sums, act, alpha, gain,
        clamp,
    )  # fmt: skip
    return g.new_empty(0) if gx is None else gx, *_results(call, sums, noise)


def double_backward(
    g, x, scale, noise, bias, h, h_scale, h_noise, h_bias, act: str, alpha: float, gain: float, clamp: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`wanted`: of g, x, scale, noise, bias."""
    _needed(x, act, clamp, h_scale is not None, "modulate_act_double_backward")
    call = _Call(g if x is None else x, 2)
    out_g, out_x = call.fresh(wanted[0]), call.fresh(wanted[1])
    sums = call.sums(wanted[2], True), call.sums(wanted[4], True), call.sums(wanted[3], False)
    call.run(
        call.image(x), call.image(g), call.image(h), out_x, out_g, scale, noise, bias, h_scale, h_noise, h_bias, sums,
        act, alpha, gain, clamp,
    )  # fmt: skip
    none = g.new_empty(0)
    return none if out_g is None else out_g, none if out_x is None else out_x, *_results(call, sums, noise)


def weight_power(weight: Tensor) -> Tensor:
    """Sums of squares of kernels: the gradient of a scale."""
    return backward(weight, weight, None, None, None, "linear", 0.0, 1.0, -1.0, [False, True, False, False])[1]
