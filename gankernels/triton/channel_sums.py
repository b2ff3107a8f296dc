"""Sums and moments over each channel in two launches, for the normalisations.

A tensor is seen as [rows of a channel, channels], whatever its layout: `offsets` finds an element. The first kernel
leaves the sums of each split of the rows in [terms, splits, channels]; the second adds up those of its own channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check

_SHARE = 16384  # bytes of a tensor that pay for a program of their own
_PROGRAMS = 512  # that fill a large GPU in a reduction
_MOST_SPLITS = 64  # each program of the second kernel reads the sums of all splits


@triton.jit
def offsets(row, channel, channels, inner):
    """Where the elements of rows x channels lie; inner is 1 where channels are side by side."""
    return (row // inner * channels * inner + row % inner)[:, None] + (channel * inner)[None, :]


@triton.jit
def number(ptr, channel, inside, otherwise: tl.constexpr, acc: tl.constexpr):
    """The numbers of channels, `otherwise` where there are none."""
    if ptr is None:
        return tl.full(channel.shape, otherwise, acc)
    else:
        return tl.load(ptr + channel, inside, 0.0).to(acc)


@triton.jit
def split_range(rows, rows_a_split, BIG: tl.constexpr):
    """The rows of this program's split, the first of its numbers."""
    split = tl.program_id(0)
    if BIG:
        split = split.to(tl.int64)
    begin = split * rows_a_split
    return begin, tl.minimum(begin + rows_a_split, rows)


@triton.jit
def reduce_moments(
    x_ptr, sums_ptr, rows, channels, inner, rows_a_split, splits,
    BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each split, both of x less its channel's first element: a large mean costs
    nothing. Each place of the tile keeps its own (Welford 1962)."""
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    begin, end = split_range(rows, rows_a_split, BIG)
    shift = tl.load(x_ptr + channel * inner, inside, 0.0).to(acc)[None, :]
    mean = tl.zeros((ROWS, CHANNELS), acc)
    squares = tl.zeros((ROWS, CHANNELS), acc)
    count = tl.full((1, 1), 0.0, acc)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        at = offsets(row, channel, channels, inner)
        count += 1.0
        if EVEN:
            x = tl.load(x_ptr + at).to(acc) - shift
            off = x - mean
        else:
            mask = (row < end)[:, None] & inside[None, :]
            x = tl.load(x_ptr + at, mask, 0.0).to(acc) - shift
            off = tl.where(mask, x - mean, 0.0)
        mean += off * (1.0 / count)
        squares += off * (x - mean)
    total = (end - begin).to(acc)
    n = ((end - begin - tl.arange(0, ROWS) + (ROWS - 1)) // ROWS).to(acc)[:, None]
    split_mean = tl.sum(n * mean, 0) / total
    off = mean - split_mean[None, :]
    split_squares = tl.sum(squares + n * off * off, 0)
    to = sums_ptr + tl.program_id(0) * channels + channel
    tl.store(to, split_mean, inside)
    tl.store(to + splits * channels, split_squares, inside)


@triton.jit
def _of_splits(sums_ptr, term, channel, inside, channels, splits, SPLITS: tl.constexpr):
    split = tl.arange(0, SPLITS)
    at = (term * splits + split)[:, None] * channels + channel[None, :]
    return tl.load(sums_ptr + at, (split < splits)[:, None] & inside[None, :], 0.0)


@triton.jit
def total_sum(sums_ptr, term, channel, inside, channels, splits, SPLITS: tl.constexpr):
    """The sum of the splits of a term."""
    return tl.sum(_of_splits(sums_ptr, term, channel, inside, channels, splits, SPLITS), 0)


@triton.jit
def total_moments(sums_ptr, channel, inside, rows, channels, rows_a_split, splits, SPLITS: tl.constexpr):
    """(mean less the first element, sum of squared deviations) of channels from those of their splits."""
    means = _of_splits(sums_ptr, 0, channel, inside, channels, splits, SPLITS)
    squares = _of_splits(sums_ptr, 1, channel, inside, channels, splits, SPLITS)
    left = rows - tl.arange(0, SPLITS).to(tl.int64) * rows_a_split
    n = tl.maximum(tl.minimum(left, rows_a_split), 0).to(means.dtype)[:, None]
    mean = tl.sum(n * means, 0) / tl.cast(rows, means.dtype)
    off = means - mean[None, :]
    return mean, tl.sum(squares + n * off * off, 0)


@dataclass(frozen=True)
class Plan:
    """How kernels go over a tensor [N, C, ...] in its own order: by the shape alone, so sums are alike everywhere."""

    layout: torch.memory_format
    rows: int
    channels: int
    inner: int
    item: int
    wide: int  # channels of a tile

    @staticmethod
    def of(x: Tensor) -> Plan:
        layout, inner = _check.kept_format(x), 1
        if layout == torch.contiguous_format:
            inner = x[0, 0].numel() if x.numel() else 1
        item, channels = x.element_size(), x.shape[1]
        wide = min(64 // item, triton.next_power_of_2(channels)) if inner == 1 else 1
        return Plan(layout, x.numel() // channels, channels, inner, item, wide)

    def splits(self) -> int:
        share = 2 * _SHARE if self.inner == 1 else _SHARE
        useful = self.rows * self.wide * self.item // share
        room = _PROGRAMS // triton.cdiv(self.channels, self.wide)
        return max(1, min(useful, room, _MOST_SPLITS))

    def shares(self, tile: int, most: int) -> tuple[int, int, dict]:
        """(rows a program, programs over the rows, meta-parameters) for at most `most` programs over the rows, which
        work by `tile` elements."""
        tall = max(1, tile // self.wide)
        rows = triton.cdiv(triton.cdiv(self.rows, most), tall) * tall
        programs = triton.cdiv(self.rows, rows)
        even = self.rows % tall == 0 and self.channels % self.wide == 0
        big = self.rows * self.channels > 2**31 - tile * self.channels
        return rows, programs, {"BIG": big, "EVEN": even, "ROWS": tall, "CHANNELS": self.wide}

    def apply_shares(self, tile: int, reads_sums: bool) -> tuple[int, int, dict]:
        """As `shares`, for the second kernel: few enough programs that reading the sums costs little."""
        strips = triton.cdiv(self.channels, self.wide)
        share = 2 * _SHARE if self.inner == 1 else _SHARE
        most = max(1, self.rows * self.wide * self.item // share)
        if reads_sums and self.inner == 1:
            most = min(most, max(1, 2 * _PROGRAMS // strips))
        return self.shares(tile, most)

    def strips(self) -> int:
        return triton.cdiv(self.channels, self.wide)
