"""add_noise in Triton: one launch for an image with noise, one for its sums; PyTorch adds up the sums of blocks.

An image is seen as [samples, outer, inner] in memory: channels and pixels, or pixels and channels where these are last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_TILE = 1024  # elements that a program works on at once
_PROGRAMS = 1024  # that fill a large GPU
_MOST_STEPS = 16


@triton.jit
def _line(ptr, base, at, step, known, factor):
    """Numbers along an axis; `factor` where there are none."""
    if ptr is None:
        return tl.zeros(at.shape, factor.dtype) + factor
    else:
        return tl.load(ptr + base + at * step, known, 0.0).to(factor.dtype)


@triton.jit
def _noise(
    x_ptr, out_ptr, row_ptr, column_ptr, row2_ptr, column2_ptr, row_sums_ptr, column_sums_ptr, outer, inner,
    outer_blocks, inner_blocks, rows, row_pitch, row_step, column_pitch, column_step, row2_pitch, row2_step,
    column2_pitch, column2_step, factor: tl.float64,
    ONE: tl.constexpr, TWO: tl.constexpr, SUMS: tl.constexpr, WIDE: tl.constexpr, BIG: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # out = x + row column + row2 column2, of the terms ONE and TWO; SUMS: of x against the columns' and rows' numbers.
    acc: tl.constexpr = tl.float64 if WIDE else tl.float32
    factor = factor.to(acc)
    one = tl.full((), 1.0, acc)
    place = tl.program_id(0)
    inner_block = place % inner_blocks
    outer_block = place // inner_blocks % outer_blocks
    sample = (place // inner_blocks // outer_blocks).to(tl.int64)
    column = inner_block * COLUMNS + tl.arange(0, COLUMNS)
    in_columns = column < inner
    if ONE:
        columns = _line(column_ptr, sample * column_pitch, column, column_step, in_columns, factor)
    if TWO:
        columns2 = _line(column2_ptr, sample * column2_pitch, column, column2_step, in_columns, one)
    total = tl.zeros((ROWS, COLUMNS), acc)
    begin = outer_block * rows
    end = tl.minimum(begin + rows, outer)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        in_rows = row < end
        mask = None if EVEN else in_rows[:, None] & in_columns[None, :]
        row_at = row.to(tl.int64) if BIG else row
        at = sample * outer * inner + (row_at * inner)[:, None] + column[None, :]
        x = tl.zeros((ROWS, COLUMNS), acc)
        if x_ptr is not None:
            x = tl.load(x_ptr + at, mask, None if EVEN else 0.0).to(acc)
        if ONE:
            own = _line(row_ptr, sample * row_pitch, row, row_step, in_rows, factor)
        if SUMS:
            if row_sums_ptr is not None:
                # Not of bare products: added to another lane's in one fma, unrounded, one would differ by lane.
                sums = tl.sum(x * columns[None, :] + 0.0, 1)
                tl.store(row_sums_ptr + (sample * inner_blocks + inner_block) * outer + row, sums, in_rows)
            if column_sums_ptr is not None:
                total += own[:, None] * x
        else:
            if ONE:
                x += own[:, None] * columns[None, :]
            if TWO:
                own = _line(row2_ptr, sample * row2_pitch, row, row2_step, in_rows, one)
                x += own[:, None] * columns2[None, :]
            tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty), mask)
    if column_sums_ptr is not None:
        to = (sample * outer_blocks + outer_block) * inner + column
        tl.store(column_sums_ptr + to, tl.sum(total, 0), in_columns)


class _Call:
    """How a kernel goes over images like `like`."""

    def __init__(self, like: Tensor, least: int = 1):
        """`least`: rows a program, where there are as many: what it sums is then little beside what it reads."""
        self.like, self.layout = like, _check.kept_format(like)
        n, c, h, w = like.shape
        self.last = self.layout == torch.channels_last
        self.outer, self.inner = (h * w, c) if self.last else (c, h * w)
        self.columns = min(128 if self.last else 256, triton.next_power_of_2(max(1, self.inner)))
        self.tall = _TILE // self.columns
        self.inner_blocks = triton.cdiv(self.inner, self.columns)
        steps = triton.cdiv(self.outer, self.tall)
        filling = min(steps, _MOST_STEPS, n * self.inner_blocks * steps // _PROGRAMS)
        self.rows = self.tall * max(1, filling, min(steps, triton.cdiv(least, self.tall)))
        self.outer_blocks = triton.cdiv(self.outer, self.rows)
        self.exact = torch.promote_types(like.dtype, torch.float32)

    def _term(self, s: Tensor | None, m: Tensor | None) -> tuple[tuple, tuple]:
        """(rows, columns), each (numbers, pitch, step)."""
        if m is None:
            return (None, 0, 1), (None, 0, 1)
        m = m.contiguous()
        if s is not None:  # one number is not written out
            c = self.like.shape[1]
            s = s.expand(c) if s.shape[0] == 1 or s.stride(0) == 0 else s.contiguous()
        strength = (s, 0, 1 if s is None else s.stride(0))
        noise = (m, 0 if m.shape[0] == 1 else self.like[0, 0].numel(), 1)
        return (noise, strength) if self.last else (strength, noise)

    def run(self, x, out, s, m, s2, m2, factor: float, row_sums=None, column_sums=None) -> None:
        if not self.like.numel():
            return
        (row, *row_by), (column, *column_by) = self._term(s, m)
        (row2, *row2_by), (column2, *column2_by) = self._term(s2, m2)
        _noise[(self.like.shape[0] * self.outer_blocks * self.inner_blocks,)](
            x, out, row, column, row2, column2, row_sums, column_sums, self.outer, self.inner, self.outer_blocks,
            self.inner_blocks, self.rows, *row_by, *column_by, *row2_by, *column2_by, factor,
            ONE=m is not None, TWO=m2 is not None, SUMS=out is None, WIDE=self.exact == torch.float64,
            BIG=self.outer * self.inner > 2**31 - _TILE * _MOST_STEPS,
            EVEN=self.outer % self.rows == 0 and self.inner % self.columns == 0, ROWS=self.tall, COLUMNS=self.columns,
            num_warps=4,
        )  # fmt: skip

    def sums(self, wanted: bool, of_channels: bool) -> Tensor | None:
        """Room for a block's sums each: [samples, blocks summed over, what is left]."""
        if not wanted:
            return None
        shape = (self.outer_blocks, self.inner) if of_channels == self.last else (self.inner_blocks, self.outer)
        make = torch.empty if self.like.numel() else torch.zeros
        return make((self.like.shape[0], *shape), dtype=self.exact, device=self.like.device)

    def total(self, sums: Tensor | None, shape: tuple, shared: bool) -> Tensor:
        """The sums of all blocks, where `shared` of all samples too."""
        if sums is None:
            return self.like.new_empty(0)
        whole = sums.shape[1] == 1 and (not shared or sums.shape[0] == 1)
        sums = sums if whole else sums.sum((0, 1) if shared else 1)
        return sums.to(self.like.dtype).view(shape)


def value(x: Tensor, add: bool, s, m, s2, m2, factor: float) -> Tensor:
    call = _Call(x)
    out = torch.empty_like(x, memory_format=call.layout)
    call.run(x.contiguous(memory_format=call.layout) if add else None, out, s, m, s2, m2, factor)
    return out


def sums(g: Tensor, s: Tensor | None, m: Tensor, factor: float, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """`wanted`: of the noise and of the strength."""
    call = _Call(g, 64)
    of_noise, of_strength = call.sums(wanted[0], False), call.sums(wanted[1], True)
    rows, columns = (of_noise, of_strength) if call.last else (of_strength, of_noise)
    if any(wanted):
        call.run(g.contiguous(memory_format=call.layout), None, s, m, None, None, factor, rows, columns)
    noise = call.total(of_noise, tuple(m.shape), m.shape[0] != g.shape[0])
    if s is not None and s.shape[0] == 1 and of_strength is not None:  # summed before it is rounded
        return noise, of_strength.sum(dtype=torch.float64).to(g.dtype).view(1)
    return noise, call.total(of_strength, (g.shape[1],), True)
