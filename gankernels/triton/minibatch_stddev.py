"""minibatch_stddev in Triton: a pass over x and a launch for the planes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops import _check
from gankernels.ops.minibatch_stddev import EPS

_TILE = 1024  # elements of a tile: the group's samples times positions


@triton.jit
def _pass(
    x_ptr, v_ptr, gy_ptr, y_ptr, gx_ptr, sums_ptr, scales_ptr, lots, channels, part, run, count, pixels, wide, splits,
    group, eps: tl.float64, K: tl.constexpr, WHOLE_Y: tl.constexpr, WHOLE_X: tl.constexpr, LAST: tl.constexpr,
    BIG: tl.constexpr, GROUP: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    # K: 0 value, 1 first derivative, 2 second. A sample of x is `part` times `channels` channels of `pixels`, one of
    # y has `wide` channels; a part's positions come in runs that lie together.
    acc = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    split = tl.program_id(0) % splits
    lot = tl.program_id(0) // splits
    first = lot // channels
    if BIG:
        first = first.to(tl.int64)
    which = lot % channels
    row = tl.arange(0, GROUP)
    there = (row < group)[:, None]
    total = tl.zeros((GROUP, POSITIONS), acc)  # its first row counts: a whole tile is reduced without races
    scale = tl.load(scales_ptr + lot) if K > 0 else 0.0
    members = tl.zeros((1,), acc) + group  # which may be 1, and then no tensor
    sample = first + row * lots
    for start in range(split * POSITIONS, count, splits * POSITIONS):
        k = start + tl.arange(0, POSITIONS)
        x_at, y_at = k, k
        if LAST:
            x_at = k // run * (part * channels) + k % run
            y_at = k // run * wide + k % run
        mask = (k < count)[None, :] & there
        from_x = (sample * (part * channels * pixels) + which * run)[:, None] + x_at[None, :]
        from_y = (sample * (wide * pixels) + which * run)[:, None] + y_at[None, :]
        x = tl.load(x_ptr + from_x, mask, 0.0)
        base = tl.load(x_ptr + first * (part * channels * pixels) + which * run + x_at, k < count, 0.0).to(acc)
        d = tl.where(mask, x.to(acc) - base[None, :], 0.0)
        d = tl.where(mask, d - (tl.sum(d, 0) / members)[None, :], 0.0)
        variance = tl.sum(d * d, 0) / members + eps.to(acc)
        deviation = tl.sqrt_rn(variance) if acc == tl.float32 else tl.sqrt(variance)
        if K == 0:
            total += tl.where(mask & (row == 0)[:, None], deviation[None, :], 0.0)
            tl.store(y_ptr + from_y, x, mask)
        elif K == 1:
            if LAST:
                # At odd addresses: one a lane, in a shape of its own, as else each lane would take neighbours as of x.
                flat = tl.arange(0, GROUP * POSITIONS)
                place = start + flat % POSITIONS
                member = flat // POSITIONS
                from_g = (first + member * lots) * (wide * pixels) + which * run + place // run * wide + place % run
                g = tl.load(gy_ptr + from_g, (place < count) & (member < group), 0.0)
                g = tl.reshape(g, (GROUP, POSITIONS))
            else:
                g = tl.load(gy_ptr + from_y, mask, 0.0)
            out = g.to(acc) + d * (scale / deviation)[None, :]
            tl.store(gx_ptr + from_x, out.to(gx_ptr.dtype.element_ty), mask)
        else:
            v = tl.load(v_ptr + from_x, mask, 0.0)
            w = v.to(acc)
            w = tl.where(mask, w - (tl.sum(w, 0) / members)[None, :], 0.0)
            q = tl.sum(w * d, 0) / members / deviation
            total += tl.where(mask & (row == 0)[:, None], q[None, :], 0.0)
            if WHOLE_Y:
                tl.store(y_ptr + from_y, v, mask)
            if WHOLE_X:
                out = (w - d * (q / deviation)[None, :]) * (scale / deviation)[None, :]
                tl.store(gx_ptr + from_x, out.to(gx_ptr.dtype.element_ty), mask)
    if K == 0 or (K == 2 and WHOLE_Y):
        tl.store(sums_ptr + lot * splits + split, tl.sum(total))


@triton.jit
def _plane_at(lot, at, lots, channels, part, pixels, wide, LAST: tl.constexpr, BIG: tl.constexpr):
    # Element `at` of a lot's planes, [group, pixels].
    sample = lot // channels + at // pixels * lots
    if BIG:
        sample = sample.to(tl.int64)
    plane = part * channels + lot % channels
    if LAST:
        return (sample * pixels + at % pixels) * wide + plane
    return (sample * wide + plane) * pixels + at % pixels


@triton.jit
def _fill(
    y_ptr, sums_ptr, lots, channels, part, pixels, wide, splits, group, count,
    LAST: tl.constexpr, BIG: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    lot = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    total = tl.sum(tl.load(sums_ptr + lot * splits + split, split < splits, 0.0), 0) / count
    for start in range(0, group * pixels, TILE):
        at = start + tl.arange(0, TILE)
        to = _plane_at(lot, at, lots, channels, part, pixels, wide, LAST, BIG)
        value = tl.zeros((TILE,), total.dtype) + total
        tl.store(y_ptr + to, value.to(y_ptr.dtype.element_ty), at < group * pixels)


@triton.jit
def _plane_sums(
    gy_ptr, scales_ptr, lots, channels, part, pixels, wide, group, count,
    LAST: tl.constexpr, BIG: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    lot = tl.program_id(0)
    total = tl.zeros((TILE,), scales_ptr.dtype.element_ty)
    for start in range(0, group * pixels, TILE):
        at = start + tl.arange(0, TILE)
        where = _plane_at(lot, at, lots, channels, part, pixels, wide, LAST, BIG)
        total += tl.load(gy_ptr + where, at < group * pixels, 0.0).to(total.dtype)
    tl.store(scales_ptr + lot, tl.sum(total, 0) / count / group)


class _Call:
    """x as the kernels read it, and what every launch on it needs."""

    def __init__(self, x: Tensor, group: int, channels: int) -> None:
        n, c, h, w = x.shape
        self.layout = _check.kept_format(x)
        self.x = x.contiguous(memory_format=self.layout)
        self.last = self.layout == torch.channels_last
        self.group, self.lots, self.channels, self.part, self.pixels = group, n // group, channels, c // channels, h * w
        self.wide, self.count = c + channels, self.part * self.pixels
        self.run = self.part if self.last else self.count
        self.big = n * self.wide * self.pixels >= 2**31 - _TILE
        self.tall = triton.next_power_of_2(group)
        self.positions = max(1, _TILE // self.tall)
        self.programs = self.lots * channels
        self.splits = max(1, min(triton.cdiv(self.count, 2 * self.positions), triton.cdiv(1024, max(1, self.programs))))
        self.acc = torch.promote_types(x.dtype, torch.float32)

    def empty_x(self) -> Tensor:
        return torch.empty_like(self.x)

    def empty_y(self) -> Tensor:
        n, _, h, w = self.x.shape
        return self.x.new_empty((n, self.wide, h, w)).contiguous(memory_format=self.layout)

    def other(self, t: Tensor) -> Tensor:
        return t.contiguous(memory_format=self.layout)

    def walk(self, order, v=None, gy=None, y=None, gx=None, scales=None) -> Tensor | None:
        """The pass; returns the sums by lot and split."""
        sums = None if y is None else self.x.new_empty((self.programs, self.splits), dtype=self.acc)
        _pass[(self.programs * self.splits,)](
            self.x, v, gy, y, gx, sums, scales, self.lots, self.channels, self.part, self.run, self.count, self.pixels,
            self.wide, self.splits, self.group, EPS, K=order, WHOLE_Y=y is not None,
            WHOLE_X=gx is not None, LAST=self.last, BIG=self.big, GROUP=self.tall, POSITIONS=self.positions,
            num_warps=4,
        )  # fmt: skip
        return sums

    def fill(self, y: Tensor, sums: Tensor) -> None:
        _fill[(self.programs,)](
            y, sums, self.lots, self.channels, self.part, self.pixels, self.wide, self.splits, self.group, self.count,
            LAST=self.last, BIG=self.big, SPLITS=triton.next_power_of_2(self.splits), TILE=256, num_warps=4,
        )  # fmt: skip

    def scales(self, gy: Tensor) -> Tensor:
        """The sum of gy's planes, over the count and the group, by lot."""
        out = gy.new_empty(self.programs, dtype=self.acc)
        _plane_sums[(self.programs,)](
            gy, out, self.lots, self.channels, self.part, self.pixels, self.wide, self.group, self.count,
            LAST=self.last, BIG=self.big, TILE=256, num_warps=4,
        )  # fmt: skip
        return out


def value(x: Tensor, group: int, channels: int) -> Tensor:
    call = _Call(x, group, channels)
    y = call.empty_y()
    if y.numel():
        call.fill(y, call.walk(0, y=y))
    return y


def backward(gy: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    call = _Call(x, group, channels)
    gx = call.empty_x()
    if gx.numel():
        gy = call.other(gy)
        call.walk(1, gy=gy, gx=gx, scales=call.scales(gy))
    return gx


def double_backward(v, gy, x, group: int, channels: int, wanted) -> tuple[Tensor, Tensor]:
    call = _Call(x, group, channels)
    ggy = call.empty_y() if wanted[0] else None
    gx = call.empty_x() if wanted[1] else None
    if x.numel() and (wanted[0] or wanted[1]):
        sums = call.walk(2, v=call.other(v), y=ggy, gx=gx, scales=call.scales(call.other(gy)))
        if wanted[0]:
            call.fill(ggy, sums)
    return tuple(x.new_empty(0) if t is None else t for t in (ggy, gx))
