"""The weight gradient of both convolutions in Triton: a matrix product summed over all pixels of all images.

A tile is BLOCK_C channels of `small` by BLOCK_P columns: channels of `large` for one tap, or, where they are few
(FLAT), channels and taps as one axis. The sum over pixels is cut into as many splits as fill a GPU, a number that
depends on the sizes alone; each writes a float32 partial result and PyTorch adds these up: no atomics, so results are
reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops.conv2d_op import empty_result
from gankernels.triton import conv2d_tiles as tiles
from gankernels.triton.conv2d_finish import scaled, scales
from gankernels.triton.conv2d_tiles import first, multiple, second, unit, within

_PROGRAMS = 264  # two for each multiprocessor of an H100


@triton.jit(do_not_specialize=tiles.NUMBERS)
def _correlate(
    small_ptr, large_ptr, out_ptr, small_scale_ptr, large_scale_ptr,
    batch, out_channels, in_channels, groups, small_height, small_width,
    large_height, large_width, small_n, small_c, small_y, small_x, large_n, large_c, large_y, large_x,
    out_split, out_o, out_i, out_y, out_x, kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x,
    dilation_y, dilation_x, splits, size_class,
    LAST: tl.constexpr, FLAT: tl.constexpr, SMALL_UNIT: tl.constexpr, LARGE_UNIT: tl.constexpr,
    OUT_UNIT: tl.constexpr, ALONE: tl.constexpr, BIG: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # Here BLOCK_C is of the small image's channels, BLOCK_P of the columns, BLOCK_K of the pixels.
    acc_t = tl.float64 if small_ptr.dtype.element_ty == tl.float64 else tl.float32
    # The axis that a unit belongs to has stride 1; the strides across it are multiples of the unit.
    small_n, small_y = multiple(small_n, SMALL_UNIT), multiple(small_y, SMALL_UNIT)
    if LAST:
        small_x = multiple(small_x, SMALL_UNIT)
        small_c = 1 if SMALL_UNIT > 1 else small_c
        out_channels = multiple(out_channels, SMALL_UNIT)
    else:
        small_c = multiple(small_c, SMALL_UNIT)
        small_x = 1 if SMALL_UNIT > 1 else small_x
        small_width = multiple(small_width, SMALL_UNIT)
    large_n, large_y, large_x = (
        multiple(large_n, LARGE_UNIT),
        multiple(large_y, LARGE_UNIT),
        multiple(large_x, LARGE_UNIT),
    )
    large_c = 1 if LARGE_UNIT > 1 else large_c
    out_split, out_o = multiple(out_split, OUT_UNIT), multiple(out_o, OUT_UNIT)
    out_y, out_x = multiple(out_y, OUT_UNIT), multiple(out_x, OUT_UNIT)
    out_i = 1 if OUT_UNIT > 1 else out_i
    in_channels = multiple(multiple(in_channels, LARGE_UNIT), OUT_UNIT)

    taps = kernel_y * kernel_x
    place = tl.program_id(0)
    channel_tiles = tl.cdiv(out_channels, BLOCK_C)
    o = place % channel_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    place //= channel_tiles
    if FLAT:
        column_tiles = tl.cdiv(in_channels * taps, BLOCK_P)
        i_tap = place % column_tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        i = i_tap // taps
        tap_y = i_tap % taps // kernel_x
        tap_x = i_tap % taps % kernel_x
        move_y, move_x = second(tap_y * dilation_y, LAST), second(tap_x * dilation_x, LAST)
    else:
        column_tiles = tl.cdiv(in_channels, BLOCK_P) * taps
        tap_y = place % column_tiles % taps // kernel_x
        tap_x = place % column_tiles % taps % kernel_x
        i = place % column_tiles // taps * BLOCK_P + tl.arange(0, BLOCK_P)
        move_y, move_x = tap_y * dilation_y, tap_x * dilation_x
    group = place // column_tiles % groups
    split = place // column_tiles // groups
    if BIG:
        group = group.to(tl.int64)
        split = split.to(tl.int64)
        o = o.to(tl.int64)
        i = i.to(tl.int64)
    o_known = o < out_channels
    i_known = i < in_channels
    small_at = ((group * out_channels + o) * small_c)[None, :]
    large_at = second((group * in_channels + i) * large_c, LAST) + (move_y * large_y + move_x * large_x)
    pixels = batch * small_height * small_width
    total = tl.zeros((BLOCK_C, BLOCK_P), acc_t)
    for start in range(split * BLOCK_K, pixels, splits * BLOCK_K):
        pixel = start + tl.arange(0, BLOCK_K)
        column = pixel % small_width
        row = pixel // small_width % small_height
        image = pixel // small_width // small_height
        inside = first(pixel < pixels, LAST)
        at = (image * small_n + row * small_y + column * small_x)[:, None] + small_at
        small = tl.load(small_ptr + at, (pixel < pixels)[:, None] & o_known[None, :], 0.0)
        y_from = row * stride_y - pad_y
        x_from = column * stride_x - pad_x
        y_here = first(y_from, LAST) + move_y
        x_here = first(x_from, LAST) + move_x
        # Of one image each, blocks of pixels take one line of its numbers.
        which = start // (small_height * small_width) if ALONE else image
        if small_scale_ptr is not None:
            numbers = scales(
                small_scale_ptr, which, pixel < pixels, group * out_channels + o, o_known, groups * out_channels,
                ALONE, True,
            )  # fmt: skip
            small = scaled(small, numbers, WIDEN)
        inside &= within(y_here, large_height) & within(x_here, large_width)
        at = first(image * large_n + y_from * large_y + x_from * large_x, LAST) + large_at
        large = tl.load(large_ptr + at, inside & second(i_known, LAST), 0.0)
        if large_scale_ptr is not None:
            numbers = scales(
                large_scale_ptr, which, pixel < pixels, group * in_channels + i, i_known, groups * in_channels,
                ALONE, LAST,
            )  # fmt: skip
            large = scaled(large, numbers, WIDEN)
        if WIDEN:
            small, large = small.to(acc_t), large.to(acc_t)
        large = large if LAST else tl.trans(large)
        total = tl.dot(tl.trans(small), large, total, input_precision=PRECISION, out_dtype=acc_t)
    at = split * out_split + ((group * out_channels + o) * out_o)[:, None]
    at += (i * out_i + tap_y * out_y + tap_x * out_x)[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), o_known[:, None] & i_known[None, :])


_KEYS = (
    "size_class", "in_channels", "out_channels", "kernel_y", "kernel_x", "stride_y", "stride_x", "LAST", "splits",
    "ALONE",
)  # fmt: skip


def splits_of(pixels: int, block: int, programs: int) -> int:
    """How many parts the pixels are cut into, each of several blocks, for `programs` tiles of the result."""
    return max(1, min(_PROGRAMS // programs, triton.cdiv(pixels, 8 * block)))


def weight_grad(
    small: Tensor, large: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    kernel: list[int], small_scale: Tensor | None = None, large_scale: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The derivative by the weight: [channels of small, channels of large / groups, *kernel].

    Numbers [N, channels] multiply an image on its way in.
    """
    out_channels, in_channels = small.shape[1] // groups, large.shape[1] // groups
    out = empty_result(small, large, (small.shape[1], in_channels, *kernel))
    pixels = small.shape[0] * small.shape[2] * small.shape[3]
    if not pixels:
        return out.zero_()
    plan = tiles.Plan(small.dtype)
    if plan.how == "plain" and large.stride(1) != 1 and in_channels >= plan.block:
        # Without tensor cores a dot reads columns: with the summed pixels innermost each would lie in one bank.
        small, large = (t.contiguous(memory_format=torch.channels_last) for t in (small, large))
    flat = tiles.few(in_channels, kernel[0] * kernel[1], 2 * plan.block)

    def count(wide, tall):
        columns = in_channels * kernel[0] * kernel[1] if flat else in_channels
        taps = 1 if flat else kernel[0] * kernel[1]
        return triton.cdiv(out_channels, wide) * triton.cdiv(columns, tall) * taps * groups

    splits = splits_of(pixels, plan.block, count(64, 64))
    sums, strides = out, (0, *out.stride())
    if splits > 1:  # channels innermost: neighbouring lanes write neighbouring sums
        total = torch.promote_types(small.dtype, torch.float32)
        sums = torch.empty((splits, small.shape[1], *kernel, in_channels), dtype=total, device=out.device)
        sums = sums.permute(0, 1, 4, 2, 3)
        strides = sums.stride()
    last = large.stride(1) == 1
    small_n, small_c, small_y, small_x = small.stride()
    large_n, large_c, large_y, large_x = large.stride()
    small_unit = (small_c, out_channels, small_n, small_y, small_x)
    if not last:
        small_unit = (small_x, small.shape[3], small_n, small_c, small_y)
    split, out_o, out_i, out_y, out_x = strides
    units = {
        "SMALL_UNIT": unit(small.element_size(), *small_unit),
        "LARGE_UNIT": unit(large.element_size(), large_c, in_channels, large_n, large_y, large_x) if last else 1,
        "OUT_UNIT": unit(sums.element_size(), out_i, in_channels, split, out_o, out_y, out_x) if not flat else 1,
    }
    numbers = [t if t is None else t.contiguous() for t in (small_scale, large_scale)]
    scaled_in = any(t is not None for t in numbers)
    alone = scaled_in and small.shape[2] * small.shape[3] % plan.block == 0
    plan.tuned(_correlate, _KEYS, scaled_in)[lambda meta: (count(meta["BLOCK_C"], meta["BLOCK_P"]) * splits,)](
        small, large, sums, *numbers,
        small.shape[0], out_channels, in_channels, groups, *small.shape[2:], *large.shape[2:],
        *small.stride(), *large.stride(), *strides, *kernel, *stride, *padding, *dilation, splits,
        tiles.size_class(in_channels * kernel[0] * kernel[1] if flat else in_channels),
        LAST=last, FLAT=flat, ALONE=alone, BIG=tiles.needs_64_bit(small, large, sums),
        **units, **plan.constants,
    )  # fmt: skip
    return out if splits == 1 else out.copy_(sums.sum(0))
