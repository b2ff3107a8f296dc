"""The weight gradient of both convolutions in Triton: a matrix product summed over all pixels of all images.

A tile is BLOCK_C channels of `small` by BLOCK_P columns: channels of `large` for one tap, or, where they are few (FLAT),
channels and taps as one axis. The sum over pixels is cut into as many splits as fill a GPU, a number that depends on
the sizes alone; each writes a float32 partial result and these are added up in order, so results are reproducible.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops.conv2d_op import empty_result
from gankernels.triton import conv2d_tiles as tiles
from gankernels.triton.conv2d_tiles import first, second, within

_PROGRAMS = 264  # two for each multiprocessor of an H100


@triton.jit(do_not_specialize=tiles.GEOMETRY)
def _correlate(
    small_ptr, large_ptr, out_ptr, batch, out_channels, in_channels, groups, small_height, small_width,
    large_height, large_width, small_n, small_c, small_y, small_x, large_n, large_c, large_y, large_x,
    out_split, out_o, out_i, out_y, out_x, kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x,
    dilation_y, dilation_x, splits, size_class,
    LAST: tl.constexpr, FLAT: tl.constexpr, BIG: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # Here BLOCK_C is of the small image's channels, BLOCK_P of the columns, BLOCK_K of the pixels.
    acc_t = tl.float64 if small_ptr.dtype.element_ty == tl.float64 else tl.float32
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
    small_at = second((group * out_channels + o) * small_c, LAST)
    large_at = second((group * in_channels + i) * large_c, LAST) + (move_y * large_y + move_x * large_x)
    pixels = batch * small_height * small_width
    total = tl.zeros((BLOCK_C, BLOCK_P), acc_t)
    for start in range(split * BLOCK_K, pixels, splits * BLOCK_K):
        pixel = start + tl.arange(0, BLOCK_K)
        column = pixel % small_width
        row = pixel // small_width % small_height
        image = pixel // small_width // small_height
        inside = first(pixel < pixels, LAST)
        at = first(image * small_n + row * small_y + column * small_x, LAST) + small_at
        small = tl.load(small_ptr + at, inside & second(o_known, LAST), 0.0)
        y_from = row * stride_y - pad_y
        x_from = column * stride_x - pad_x
        y_here = first(y_from, LAST) + move_y
        x_here = first(x_from, LAST) + move_x
        inside &= within(y_here, large_height) & within(x_here, large_width)
        at = first(image * large_n + y_from * large_y + x_from * large_x, LAST) + large_at
        large = tl.load(large_ptr + at, inside & second(i_known, LAST), 0.0)
        if WIDEN:
            small, large = small.to(acc_t), large.to(acc_t)
        if LAST:
            total = tl.dot(tl.trans(small), large, total, input_precision=PRECISION, out_dtype=acc_t)
        else:
            total = tl.dot(small, tl.trans(large), total, input_precision=PRECISION, out_dtype=acc_t)
    at = split * out_split + ((group * out_channels + o) * out_o)[:, None]
    at += (i * out_i + tap_y * out_y + tap_x * out_x)[None, :]
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), o_known[:, None] & i_known[None, :])


_KEYS = ("size_class", "in_channels", "out_channels", "kernel_y", "kernel_x", "stride_y", "stride_x", "LAST", "splits")


def _splits(tiles_: int, pixels: int, block: int) -> int:
    """How many parts the pixels are cut into, each of several blocks."""
    return max(1, min(_PROGRAMS // tiles_, triton.cdiv(pixels, 8 * block)))


def weight_grad(
    small: Tensor, large: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    kernel: list[int],
) -> Tensor:  # fmt: skip
    """The derivative by the weight: [channels of small, channels of large / groups, *kernel]."""
    out_channels, in_channels = small.shape[1] // groups, large.shape[1] // groups
    out = empty_result(small, large, (small.shape[1], in_channels, *kernel))
    pixels = small.shape[0] * small.shape[2] * small.shape[3]
    if not pixels:
        return out.zero_()
    plan = tiles.Plan(small.dtype)
    flat = tiles.few(in_channels, kernel[0] * kernel[1], 2 * plan.block)

    def count(wide, tall):
        columns = in_channels * kernel[0] * kernel[1] if flat else in_channels
        taps = 1 if flat else kernel[0] * kernel[1]
        return triton.cdiv(out_channels, wide) * triton.cdiv(columns, tall) * taps * groups

    splits = _splits(count(64, 64), pixels, plan.block)
    sums, strides = out, (0, *out.stride())
    if splits > 1:
        total = torch.promote_types(small.dtype, torch.float32)
        sums = torch.empty_strided((splits, *out.shape), (out.numel(), *out.stride()), dtype=total, device=out.device)
        strides = sums.stride()
    plan.tuned(_correlate, _KEYS)[lambda meta: (count(meta["BLOCK_C"], meta["BLOCK_P"]) * splits,)](
        small, large, sums, small.shape[0], out_channels, in_channels, groups, *small.shape[2:], *large.shape[2:],
        *small.stride(), *large.stride(), *strides, *kernel, *stride, *padding, *dilation, splits,
        tiles.size_class(in_channels * kernel[0] * kernel[1] if flat else in_channels),
        LAST=large.stride(1) == 1, FLAT=flat, BIG=tiles.needs_64_bit(small, large, sums),
        **plan.constants,
    )  # fmt: skip
    return out if splits == 1 else sums.sum(0).to(out.dtype)
