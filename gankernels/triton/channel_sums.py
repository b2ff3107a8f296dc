"""Sums and moments over each channel in two launches, for the normalisations.

A tensor is seen as [groups of rows of a channel, channels], whatever its layout: `offsets` finds an element. A cell is
a group's part of a channel. The first kernel leaves the sums of each split of a group's rows in
[terms, groups, splits, channels]; the second adds up those of its own cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check
from gankernels.triton.targets import registers

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
def inverse_root(x):
    """1 / sqrt(x), correctly rounded twice: the operators themselves are approximate in float32."""
    if x.dtype == tl.float64:
        return 1.0 / tl.sqrt(x)
    else:
        return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), tl.sqrt_rn(x))


@triton.jit
def store_number(ptr, channel, value, inside):
    """Numbers of channels, where they are asked for."""
    if ptr is not None:
        tl.store(ptr + channel, value.to(ptr.dtype.element_ty), inside)


@triton.jit
def affine(
    mean_ptr, invstd_ptr, weight_ptr, bias_ptr, group, channel, inside, channels,
    SHARED: tl.constexpr, acc: tl.constexpr,
):  # fmt: skip
    """(cell, mean, 1 / deviation, weight, bias) of a group's cells; mean and deviation are a channel's where SHARED."""
    cell = group * channels + channel
    own = channel if SHARED else cell
    mean = number(mean_ptr, own, inside, 0.0, acc)
    r = number(invstd_ptr, own, inside, 1.0, acc)
    return cell, mean, r, number(weight_ptr, cell, inside, 1.0, acc), number(bias_ptr, cell, inside, 0.0, acc)


# Programs lie in one dimension, as the others end at 65535: all strips of channels of one split, then of the next.
@triton.jit
def strip_of(channels, CHANNELS: tl.constexpr):
    """The number of this program's strip of CHANNELS channels."""
    return tl.program_id(0) % tl.cdiv(channels, CHANNELS)


@triton.jit
def split_of(channels, CHANNELS: tl.constexpr):
    """The number of this program's split, through all groups."""
    return tl.program_id(0) // tl.cdiv(channels, CHANNELS)


@triton.jit
def splits_of(channels, CHANNELS: tl.constexpr):
    """The splits of all groups together."""
    return tl.num_programs(0) // tl.cdiv(channels, CHANNELS)


@triton.jit
def split_range(rows, rows_a_split, channels, BIG: tl.constexpr, CHANNELS: tl.constexpr):
    """(begin, end, group): the rows of this program's split, of which a group has `rows`."""
    split = split_of(channels, CHANNELS)
    if BIG:
        split = split.to(tl.int64)
    splits = tl.cdiv(rows, rows_a_split)
    group = split // splits
    begin = group * rows + split % splits * rows_a_split
    return begin, tl.minimum(begin + rows_a_split, (group + 1) * rows), group


@triton.jit
def first_of(x_ptr, group, channel, inside, rows, channels, inner):
    """The first element of cells."""
    return tl.load(x_ptr + (group * rows * channels + channel * inner), inside, 0.0)


@triton.jit
def reduce_moments(
    x_ptr, sums_ptr, rows, channels, inner, rows_a_split,
    BIG: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum and sum of squared deviations of each split, both of x less its channel's first element: a large mean costs
    nothing. Each place of the tile keeps its own mean (Welford 1962)."""
    acc: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    begin, end, group = split_range(rows, rows_a_split, channels, BIG, CHANNELS)
    shift = first_of(x_ptr, group, channel, inside, rows, channels, inner).to(acc)[None, :]
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
    split_sum = tl.sum(n * mean, 0)
    off = mean - (split_sum / total)[None, :]
    to = sums_ptr + split_of(channels, CHANNELS) * channels + channel
    tl.store(to, split_sum, inside)
    tl.store(to + splits_of(channels, CHANNELS) * channels, tl.sum(squares + n * off * off, 0), inside)


@triton.jit
def _of_splits(sums_ptr, term, group, groups, channel, inside, channels, splits, SPLITS: tl.constexpr):
    split = tl.arange(0, SPLITS)
    at = ((term * groups + group) * splits + split)[:, None] * channels + channel[None, :]
    return tl.load(sums_ptr + at, (split < splits)[:, None] & inside[None, :], 0.0)


@triton.jit
def total_sum(sums_ptr, term, group, groups, channel, inside, channels, splits, SPLITS: tl.constexpr):
    """The sum of the splits of a term, of a group's cells."""
    return tl.sum(_of_splits(sums_ptr, term, group, groups, channel, inside, channels, splits, SPLITS), 0)


@triton.jit
def total_moments(
    sums_ptr, group, groups, channel, inside, rows, channels, rows_a_split, splits, SPLITS: tl.constexpr
):  # fmt: skip
    """(mean less the first element, sum of squared deviations) of cells from those of their splits."""
    sums = _of_splits(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
    squares = _of_splits(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
    split = tl.arange(0, SPLITS).to(tl.int64)
    n = tl.minimum(rows - split * rows_a_split, rows_a_split)
    n = tl.where(split < splits, n, 0).to(sums.dtype)[:, None]
    # Sums, not products: added to another lane's in one fma, unrounded, a product would differ from lane to lane.
    mean = tl.sum(sums, 0) / tl.cast(rows, sums.dtype)
    off = sums / tl.maximum(n, 1.0) - mean[None, :]
    return mean, tl.sum(squares + n * off * off, 0)


@triton.jit
def _parameter_grads(
    sums_ptr, invstd_ptr, grad_weight_ptr, grad_bias_ptr, channels, splits,
    SHARED: tl.constexpr, SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    channel = strip_of(channels, CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    group, groups = split_of(channels, CHANNELS), splits_of(channels, CHANNELS)
    cell = group * channels + channel
    if grad_bias_ptr is not None:
        grad_bias = total_sum(sums_ptr, 0, group, groups, channel, inside, channels, splits, SPLITS)
        store_number(grad_bias_ptr, cell, grad_bias, inside)
    if grad_weight_ptr is not None:
        grad_weight = total_sum(sums_ptr, 1, group, groups, channel, inside, channels, splits, SPLITS)
        grad_weight *= tl.load(invstd_ptr + (channel if SHARED else cell), inside, 0.0)
        store_number(grad_weight_ptr, cell, grad_weight, inside)


@dataclass(frozen=True)
class Plan:
    """How kernels go over a tensor [N, C, ...] in its own order: by the shape alone, so sums are alike everywhere."""

    layout: torch.memory_format
    groups: int
    rows: int  # of a group
    channels: int
    inner: int
    item: int
    wide: int  # channels of a tile

    @staticmethod
    def of(x: Tensor, groups: str = "one") -> Plan:
        """`groups`: "one"; "samples", each a group; "instances", the same, which contiguous are channels instead."""
        layout, inner = _check.kept_format(x), 1
        if layout == torch.contiguous_format:
            inner = x[0, 0].numel() if x.numel() else 1
        item, channels, count = x.element_size(), x.shape[1], 1 if groups == "one" else x.shape[0]
        if groups == "instances" and layout == torch.contiguous_format:
            channels, count = channels * x.shape[0], 1
        wide = min(64 // item, triton.next_power_of_2(channels)) if inner == 1 else 1
        return Plan(layout, count, x.numel() // max(1, channels * count), channels, inner, item, wide)

    def splits(self, sums: bool = True) -> int:
        """Programs over a group's rows that pay; with `sums`, few enough that reading them all costs little."""
        most = max(1, self.rows * self.wide * self.item // (2 * _SHARE if self.inner == 1 else _SHARE))
        return max(1, min(most, _PROGRAMS // (self.strips() * self.groups), _MOST_SPLITS)) if sums else most

    def programs(self, reads_sums: bool) -> int:
        """As `splits`, of the second kernel."""
        most = self.splits(False)
        room = max(1, 2 * _PROGRAMS // (self.strips() * self.groups))
        return min(most, room) if reads_sums and self.inner == 1 else most

    def shares(self, tile: int, most: int) -> tuple[int, int, dict]:
        """(rows a program, programs over a group's rows, meta-parameters) for at most `most` such programs, which work
        by `tile` elements."""
        tall = max(1, tile // self.wide)
        rows = triton.cdiv(triton.cdiv(self.rows, most), tall) * tall
        even = self.rows % tall == 0 and self.channels % self.wide == 0
        big = self.groups * self.rows * self.channels > 2**31 - tile * self.channels
        meta = {"BIG": big, "EVEN": even, "ROWS": tall, "CHANNELS": self.wide}
        return rows, triton.cdiv(self.rows, rows), meta

    def strips(self) -> int:
        return triton.cdiv(self.channels, self.wide)


@dataclass(frozen=True)
class Sums:
    """What the first kernel left: [terms, groups, splits, channels], None where nothing is summed."""

    sums: Tensor | None = None
    rows: int = 0
    splits: int = 0


class Call:
    """A call's tensors as its kernels take them, and their launches over `tile` elements at a time."""

    def __init__(self, x: Tensor, tile: int, groups: str = "one"):
        self.plan, self.tile = Plan.of(x, groups), tile
        self.x = x.contiguous(memory_format=self.plan.layout)
        self.exact = torch.promote_types(x.dtype, torch.float32)

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.plan.rows, self.plan.channels, self.plan.inner

    def dense(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else t.contiguous(memory_format=self.plan.layout)

    def like_x(self, wanted: bool = True) -> Tensor | None:
        return torch.empty_like(self.x) if wanted else None

    def numbers(self, cells: bool, wanted: bool = True, like: Tensor | None = None) -> Tensor | None:
        """[N, C] where `cells`, else [C]; of the dtype of sums where `like` is None; zero for an empty batch."""
        make = torch.empty if self.x.numel() else torch.zeros
        dtype = self.exact if like is None else like.dtype
        shape = self.x.shape[0 if cells else 1 : 2]
        return make(shape, dtype=dtype, device=self.x.device) if wanted else None

    def or_none(self, t: Tensor | None, like: Tensor | None) -> Tensor:
        """What an operator returns for a result that was not asked for: an empty one."""
        return self.x.new_empty(0, dtype=self.exact if like is None else like.dtype) if t is None else t

    def reduce(self, kernel, terms: int, *tensors: Tensor | None, numbers: tuple = (), **meta) -> Sums:
        """The sums of `terms` a cell; 0 for a kernel that sums nothing. It takes x, tensors, sums, sizes, rows of a
        split, numbers."""
        plan = self.plan
        rows, splits, tile = plan.shares(self.tile, plan.splits(terms > 0))
        sums = None
        if terms:
            sums = torch.empty((terms, plan.groups, splits, plan.channels), dtype=self.exact, device=self.x.device)
        kernel[(plan.groups * splits * plan.strips(),)](
            self.x, *tensors, sums, *self.sizes, rows, *numbers, **meta, **tile, num_warps=4,
            **(registers(80, 100) if plan.groups > 1 else {}),
        )  # fmt: skip
        return Sums(sums, rows, splits)

    def apply(self, kernel, sums: Sums, *tensors: Tensor | None, rows_too: bool = False, writes: bool = True,
              numbers: tuple = (), **meta) -> None:  # fmt: skip
        """The kernel takes x, tensors, sums, sizes, groups, (rows of a split where `rows_too`,) splits, rows of a
        program, numbers. Without `writes` one program a cell, which writes no element."""
        plan = self.plan
        rows, programs, tile = plan.shares(self.tile, plan.programs(sums.sums is not None))
        self_rows = (sums.rows,) if rows_too else ()
        if not writes:
            rows, programs = plan.rows, 1
        kernel[(plan.groups * programs * plan.strips(),)](
            self.x, *tensors, sums.sums, *self.sizes, plan.groups, *self_rows, sums.splits, rows, *numbers,
            SPLITS=triton.next_power_of_2(max(1, sums.splits)), **meta, **tile, num_warps=4,
        )  # fmt: skip

    def whole(self, kernel, *tensors: Tensor | None, numbers: tuple = (), most: int, **meta) -> bool:
        """One launch where a group's rows of a strip are at most `most` elements, which a program then holds; else
        nothing. The kernel takes x, tensors, sizes, numbers."""
        plan = self.plan
        tall = triton.next_power_of_2(max(1, plan.rows))
        if tall * plan.wide > most:
            return False
        even = plan.rows == tall and plan.channels % plan.wide == 0
        big = plan.groups * plan.rows * plan.channels > 2**31 - tall * plan.channels
        warps = min(16, max(1, tall * plan.wide // 512))
        kernel[(plan.groups * plan.strips(),)](
            self.x, *tensors, *self.sizes, *numbers, BIG=big, EVEN=even, ROWS=tall, CHANNELS=plan.wide, **meta,
            num_warps=warps,
        )  # fmt: skip
        return True


def parameter_grads(
    call: Call, sums: Sums, invstd: Tensor, grad_weight: Tensor | None, grad_bias: Tensor | None, shared: bool
) -> None:
    """The gradients of bias and of weight from their sums, the latter's over x - mean."""
    plan, wide = call.plan, 32
    _parameter_grads[(triton.cdiv(plan.channels, wide) * plan.groups,)](
        sums.sums, invstd.contiguous(), grad_weight, grad_bias, plan.channels, sums.splits,
        SHARED=shared, SPLITS=triton.next_power_of_2(sums.splits), CHANNELS=wide, num_warps=4,
    )  # fmt: skip
