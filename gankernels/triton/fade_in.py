"""fade_in in Triton: one launch for a mix, one for its adjoint; PyTorch adds up the sums of blocks.

In memory a low image is [rows, columns, inner], an image [rows, r, columns, r, inner].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 1024  # elements of a line that a program works on at once
_THREADS = 128
_PROGRAMS = 2048  # that fill a large GPU, a few times over


@triton.jit
def _number(ptr, factor):
    if ptr is None:
        return factor
    else:
        return tl.load(ptr).to(factor.dtype)


@triton.jit
def _low_at(at, ROWS: tl.constexpr, VEC: tl.constexpr):
    return at[:, None] * VEC + tl.arange(0, VEC)[None, :] if ROWS else at


@triton.jit
def _enlarged(low, ROWS: tl.constexpr, P: tl.constexpr, VEC: tl.constexpr, R: tl.constexpr):
    # ROWS: [positions, VEC] to the VEC R elements of a line over them; else elements lie over elements.
    if ROWS:
        return tl.reshape(tl.broadcast_to(low[:, :, None], (P, VEC, R)), (P, VEC * R))
    else:
        return low


@triton.jit
def _first(at, row_size, columns, inner, ROWS: tl.constexpr, VEC: tl.constexpr, R: tl.constexpr):
    # Where an image's elements over the low positions `at` are, those of the first line.
    if ROWS:
        row = at // row_size
        to = row * R * row_size + at % row_size
        return to[:, None] * (VEC * R) + tl.arange(0, VEC * R)[None, :]
    else:
        pixel = at // inner
        return (pixel // columns * R * columns + pixel % columns) * R * inner + at % inner


@triton.jit
def _value(
    x_ptr, l_ptr, a_ptr, x2_ptr, l2_ptr, a2_ptr, out_ptr, positions, share, row_size, columns, inner,
    factor: tl.float64,
    DIFFERENCE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, BIG: tl.constexpr, P: tl.constexpr,
    VEC: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    # out = a x + b up(l) + a2 (x2 - up(l2)), b = 1 - a, or -a in a DIFFERENCE.
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    a = _number(a_ptr, factor.to(acc))
    b = -a if DIFFERENCE else 1 - a
    a2 = _number(a2_ptr, factor.to(acc))
    begin = tl.program_id(0).to(tl.int64) * share if BIG else tl.program_id(0) * share
    end = tl.minimum(begin + share, positions)
    for start in range(begin, end, P):
        at = start + tl.arange(0, P)
        known = (at < end)[:, None] if ROWS else at < end
        low_at = _low_at(at, ROWS, VEC)
        low = tl.zeros((P, VEC) if ROWS else (P,), acc)
        if l_ptr is not None:
            low += b * tl.load(l_ptr + low_at, known, 0.0).to(acc)
        if l2_ptr is not None:
            low -= a2 * tl.load(l2_ptr + low_at, known, 0.0).to(acc)
        low = _enlarged(low, ROWS, P, VEC, R)
        first = _first(at, row_size, columns, inner, ROWS, VEC, R)
        line = row_size * (VEC * R) if ROWS else columns * R * inner
        for part in range(R if ROWS else R * R):
            if ROWS:
                to = first + part * line
            else:
                to = first + part // R * line + part % R * inner
            y = low
            if x_ptr is not None:
                y += a * tl.load(x_ptr + to, known, 0.0).to(acc)
            if x2_ptr is not None:
                y += a2 * tl.load(x2_ptr + to, known, 0.0).to(acc)
            tl.store(out_ptr + to, y.to(out_ptr.dtype.element_ty), known)


@triton.jit
def _adjoint(
    g_ptr, x_ptr, l_ptr, a_ptr, out_ptr, out_l_ptr, sums_ptr, positions, share, row_size, columns, inner,
    factor: tl.float64,
    DIFFERENCE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, BIG: tl.constexpr, P: tl.constexpr,
    VEC: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    # out = a g, out_l = b times g's sums over r x r; a program's sum of g (x - up(l)).
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    a = _number(a_ptr, factor.to(acc))
    b = -a if DIFFERENCE else 1 - a
    begin = tl.program_id(0).to(tl.int64) * share if BIG else tl.program_id(0) * share
    end = tl.minimum(begin + share, positions)
    total = tl.zeros((P, VEC * R) if ROWS else (P,), acc)
    for start in range(begin, end, P):
        at = start + tl.arange(0, P)
        known = (at < end)[:, None] if ROWS else at < end
        low_at = _low_at(at, ROWS, VEC)
        low = tl.zeros((P, VEC) if ROWS else (P,), acc)
        if l_ptr is not None:
            low += tl.load(l_ptr + low_at, known, 0.0).to(acc)
        low = _enlarged(low, ROWS, P, VEC, R)
        first = _first(at, row_size, columns, inner, ROWS, VEC, R)
        line = row_size * (VEC * R) if ROWS else columns * R * inner
        lines = tl.zeros(total.shape, acc)
        for part in range(R if ROWS else R * R):
            if ROWS:
                to = first + part * line
            else:
                to = first + part // R * line + part % R * inner
            g = tl.load(g_ptr + to, known, 0.0).to(acc)
            if out_ptr is not None:
                tl.store(out_ptr + to, (a * g).to(out_ptr.dtype.element_ty), known)
            lines += g
            if sums_ptr is not None:
                if x_ptr is None:
                    total -= g * low
                else:
                    total += g * (tl.load(x_ptr + to, known, 0.0).to(acc) - low)
        if out_l_ptr is not None:
            if ROWS:
                lines = tl.sum(tl.reshape(lines, (P, VEC, R)), 2)
            tl.store(out_l_ptr + low_at, (b * lines).to(out_l_ptr.dtype.element_ty), known)
    if sums_ptr is not None:
        tl.store(sums_ptr + tl.program_id(0), tl.sum(total))


class _Call:
    """A call's layout and sizes; `like` is a low image where `low`."""

    def __init__(self, like: Tensor, low: bool, r: int):
        self.like, self.r, self.layout = like, r, _check.kept_format(like)
        n, c, h, w = like.shape
        self.shapes = {low: tuple(like.shape), (not low): (n, c, h * r, w * r) if low else (n, c, h // r, w // r)}
        self.exact = torch.promote_types(like.dtype, torch.float32)
        n, c, h, w = self.shapes[True]
        last, most = self.layout == torch.channels_last, 16 // like.element_size()
        self.columns, self.inner = w, c if last and r > 1 else 1
        line = w if r > 1 else n * c * h * w  # where nothing is enlarged, all is one line
        self.rows = self.inner == 1 and r in (1, 2, 4, 8)
        self.vec = 1
        while self.rows and self.vec * r < most and line % (2 * self.vec) == 0:
            self.vec *= 2
        self.tall = _TILE // (self.vec * r) if self.rows else _THREADS * most
        self.row_size, self.positions = line // self.vec, n * c * h * w // self.vec
        programs = min(_PROGRAMS, triton.cdiv(self.positions, self.tall))
        self.share = triton.cdiv(triton.cdiv(self.positions, max(1, programs)), self.tall) * self.tall
        self.programs = triton.cdiv(self.positions, self.share) if self.positions else 0

    def dense(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else t.contiguous(memory_format=self.layout)

    def fresh(self, low: bool, wanted: bool = True) -> Tensor | None:
        if not wanted:
            return None
        shape, like = self.shapes[low], self.like
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=self.layout)

    def or_none(self, t: Tensor | None) -> Tensor:
        return self.like.new_empty(0) if t is None else t

    def run(self, kernel, *tensors: Tensor | None, difference: bool, factor: float) -> None:
        if not self.programs:
            return
        kernel[(self.programs,)](
            *tensors, self.positions, self.share, self.row_size, self.columns, self.inner, factor,
            DIFFERENCE=difference, ROWS=self.rows, WIDE=self.exact == torch.float64,
            BIG=self.positions * self.vec * self.r**2 > 2**31 - _TILE * self.r**2, P=self.tall, VEC=self.vec, R=self.r,
            num_warps=_THREADS // 32,
        )  # fmt: skip


def value(x, l, a, x2, l2, a2, difference: bool, factor: float, r: int) -> Tensor:  # noqa: E741
    like = next(t for t in (x, l, x2, l2) if t is not None)
    call = _Call(like, x is None and (l is not None or x2 is None), r)
    out = call.fresh(False)
    images = (call.dense(x), call.dense(l), a, call.dense(x2), call.dense(l2), a2)
    call.run(_value, *images, out, difference=difference, factor=factor)
    return out


def adjoint(g, x, l, a, difference: bool, factor: float, r: int, wanted) -> tuple[Tensor, Tensor, Tensor]:  # noqa: E741
    """`wanted`: of the image, the low one and the number."""
    call = _Call(g, False, r)
    out, out_l = call.fresh(False, wanted[0]), call.fresh(True, wanted[1])
    sums = torch.empty(call.programs, dtype=call.exact, device=g.device) if wanted[2] else None
    x, l = (call.dense(t) if wanted[2] else None for t in (x, l))  # noqa: E741
    call.run(_adjoint, call.dense(g), x, l, a, out, out_l, sums, difference=difference, factor=factor)
    return call.or_none(out), call.or_none(out_l), g.new_empty(0) if sums is None else sums.sum(0).to(g.dtype)
