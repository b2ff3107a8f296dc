"""conv2d and conv_transpose2d in Triton: one kernel, an implicit matrix product; one launch for any geometry.

Result pixels that lie `step` apart on each axis, a phase, meet the same taps: a convolution has one phase, a transposed
one stride x stride, each an ordinary convolution of the samples with every stride-th tap, so no inserted zero is
multiplied. A tile is BLOCK_P pixels of a phase by BLOCK_C channels of the result; it runs over the source's channels
BLOCK_K at a time and, for each such block, over the taps: those read the same lines of x and of weight again, which by
then are in L1. With few channels (FLAT) taps and channels form one axis instead, so that no block is mostly empty.

Tiles are [pixels, channels] where x keeps channels last, else [channels, pixels]: neighbours in memory are then
neighbouring lanes, and 128-bit accesses where sizes and strides allow it. All strides are the tensors' own: nothing is
copied but, for IEEE float32 in NHWC, the weight.

Numbers for each sample and channel may multiply x as it is loaded, and the result as it is stored, where noise, bias
and an activation may follow: that is modulated_conv2d, whose weights of a sample are so never written.
"""

from __future__ import annotations

from math import gcd

import triton
import triton.language as tl
from torch import Tensor

from gankernels.ops.conv2d_op import empty_result
from gankernels.triton import conv2d_tiles as tiles
from gankernels.triton.conv2d_finish import Finish, finished, scaled, scales
from gankernels.triton.conv2d_tiles import first, multiple, second, unit, within

_ALONE = 256  # pixels of an image that pay for tiles of their own


@triton.jit
def _axis(phase, pad, stride, dilation, common, inverse, kernel, TRANSPOSED: tl.constexpr):
    """Of the results phase, phase + step, ... along an axis: step, sample of the first and samples between them; first
    tap, taps between those that they meet, samples between those, and how many they are.

    Transposed: tap t meets result r where r + pad - t * dilation is a multiple of stride. `common` is gcd(stride,
    dilation), `inverse` that of dilation / common modulo stride / common.
    """
    if TRANSPOSED:
        every = stride // common
        at = phase + pad
        tap = at // common * inverse % every
        taps = tl.where(at % common == 0, tl.maximum((kernel - tap + every - 1) // every, 0), 0)
        return stride, (at - tap * dilation) // stride, 1, tap, every, -(dilation // common), taps
    else:
        return 1, -pad, stride, 0, 1, dilation, kernel


@triton.jit(do_not_specialize=tiles.NUMBERS)
def _convolve(
    x_ptr, w_ptr, bias_ptr, y_ptr, z_ptr, x_scale_ptr, y_scale_ptr, noise_ptr,
    batch, in_channels, out_channels, groups, x_height, x_width, y_height, y_width,
    x_n, x_c, x_y, x_x, w_in, w_out, w_group, w_y, w_x, y_n, y_c, y_y, y_x,
    kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x,
    common_y, common_x, inverse_y, inverse_x, size_class, noise_pitch,
    alpha: tl.float64, gain: tl.float64, clamp: tl.float64, ACT: tl.constexpr, CLAMP: tl.constexpr,
    ALONE: tl.constexpr, TRANSPOSED: tl.constexpr, POINT: tl.constexpr, BIAS: tl.constexpr, LAST: tl.constexpr,
    FLAT: tl.constexpr, PACKED: tl.constexpr, RUN: tl.constexpr, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr,
    X_UNIT: tl.constexpr, W_IN_UNIT: tl.constexpr, W_OUT_UNIT: tl.constexpr, Y_C_UNIT: tl.constexpr,
    Y_X_UNIT: tl.constexpr, BIG: tl.constexpr, WIDEN: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    acc_t = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    # The axis that a unit belongs to has stride 1; the strides across it are multiples of the unit.
    C_UNIT: tl.constexpr = X_UNIT if LAST else 1
    x_n, x_y = multiple(x_n, X_UNIT), multiple(x_y, X_UNIT)
    x_c, x_x = (1, multiple(x_x, X_UNIT)) if C_UNIT > 1 else (multiple(x_c, X_UNIT), x_x)
    if X_UNIT > C_UNIT:
        x_x = 1
    W_UNIT: tl.constexpr = W_IN_UNIT if W_IN_UNIT > 1 else W_OUT_UNIT
    w_group = multiple(w_group, W_UNIT)
    if not PACKED:
        w_y, w_x = multiple(w_y, W_UNIT), multiple(w_x, W_UNIT)
    w_in = 1 if W_IN_UNIT > 1 else multiple(w_in, W_OUT_UNIT)
    w_out = 1 if W_OUT_UNIT > 1 else multiple(w_out, W_IN_UNIT)
    in_channels = multiple(multiple(in_channels, C_UNIT), W_IN_UNIT)
    out_channels = multiple(multiple(out_channels, Y_C_UNIT), W_OUT_UNIT)
    Y_UNIT: tl.constexpr = Y_C_UNIT if Y_C_UNIT > 1 else Y_X_UNIT
    y_n, y_y = multiple(y_n, Y_UNIT), multiple(y_y, Y_UNIT)
    y_c = 1 if Y_C_UNIT > 1 else multiple(y_c, Y_X_UNIT)
    y_x = 1 if Y_X_UNIT > 1 else multiple(y_x, Y_C_UNIT)
    y_width = multiple(y_width, Y_X_UNIT)

    # Neighbouring programs share their pixels: first the channels of one tile, then the phases that interleave there.
    place = tl.program_id(0)
    channel_tiles = tl.cdiv(out_channels, BLOCK_C)
    channel = place % channel_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    group = place // channel_tiles % groups
    place = place // channel_tiles // groups
    phases_x = stride_x if TRANSPOSED else 1
    phases = stride_y * stride_x if TRANSPOSED else 1
    phase_y = place % phases // phases_x
    phase_x = place % phases_x
    pixel = place // phases
    if BIG:
        group = group.to(tl.int64)
        pixel = pixel.to(tl.int64)
    step_y, start_y, between_y, tap_y, every_y, move_y, taps_y = _axis(
        phase_y, pad_y, stride_y, dilation_y, common_y, inverse_y, kernel_y, TRANSPOSED
    )
    step_x, start_x, between_x, tap_x, every_x, move_x, taps_x = _axis(
        phase_x, pad_x, stride_x, dilation_x, common_x, inverse_x, kernel_x, TRANSPOSED
    )
    if TRANSPOSED:
        rows = tl.maximum(tl.cdiv(y_height - phase_y, step_y), 1)
        columns = tl.maximum(tl.cdiv(y_width - phase_x, step_x), 1)
    else:
        rows = y_height
        columns = y_width
    if ALONE:
        tiles_an_image = tl.cdiv(tl.cdiv(y_height, step_y) * tl.cdiv(y_width, step_x), BLOCK_P)
        image = pixel // tiles_an_image
        pixel = pixel % tiles_an_image * BLOCK_P + tl.arange(0, BLOCK_P)
        row = pixel // columns
        inside = (row < rows) & (phase_y < y_height) & (phase_x < y_width)
    else:
        pixel = pixel * BLOCK_P + tl.arange(0, BLOCK_P)
        row = pixel // columns % rows
        image = pixel // columns // rows
        inside = (image < batch) & (phase_y < y_height) & (phase_x < y_width)
    column = pixel % columns

    x_row = row if POINT else row * between_y + start_y
    x_column = column if POINT else column * between_x + start_x
    x_at = first(group * in_channels * x_c + image * x_n + x_row * x_y + x_column * x_x, LAST)
    w_start = group * w_group + tap_y * w_y + tap_x * w_x
    w_at = second(w_start + channel * w_out, LAST)
    if TAPS_Y > 0:
        taps_y, taps_x = TAPS_Y, TAPS_X
    taps = taps_y * taps_x
    lane = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_P, BLOCK_C) if LAST else (BLOCK_C, BLOCK_P), acc_t)
    blocks = tl.cdiv(in_channels * taps, BLOCK_K) if FLAT else tl.cdiv(in_channels, BLOCK_K) * taps
    block = 0
    j_y = 0
    j_x = 0
    for step in range(blocks):
        if FLAT:
            lane_k = step * BLOCK_K + lane
            source = lane_k // taps
            tap = lane_k % taps
            x_j_y, x_j_x = second(tap // taps_x, LAST), second(tap % taps_x, LAST)
            w_j_y, w_j_x = first(tap // taps_x, LAST), first(tap % taps_x, LAST)
        else:
            source = block + lane
            x_j_y, x_j_x, w_j_y, w_j_x = j_y, j_x, j_y, j_x
        known = source < in_channels
        if BIG:
            source = source.to(tl.int64)
        ok = first(inside, LAST)
        at = x_at + second(source * x_c, LAST)
        if not POINT:
            ok &= within(first(x_row, LAST) + x_j_y * move_y, x_height)
            ok &= within(first(x_column, LAST) + x_j_x * move_x, x_width)
            at += x_j_y * move_y * x_y + x_j_x * move_x * x_x
        x = tl.load(x_ptr + at, ok & second(known, LAST), 0.0)
        if x_scale_ptr is not None:
            scale = scales(
                x_scale_ptr, image, inside, group * in_channels + source, known, groups * in_channels, ALONE, LAST
            )
            x = scaled(x, scale, WIDEN)
        if RUN > 0:  # lanes run along this many taps and then along channels
            run_k = step * BLOCK_K + tl.arange(0, BLOCK_K // RUN)[:, None, None] * RUN
            run_k += tl.arange(0, RUN)[None, None, :]
            source = run_k // taps
            tap = run_k % taps
            known = source < in_channels
            if BIG:
                source = source.to(tl.int64)
            at = w_start + (channel * w_out)[None, :, None] + source * w_in
            at += tap // taps_x * every_y * w_y + tap % taps_x * every_x * w_x
            w = tl.load(w_ptr + at, known & (channel < out_channels)[None, :, None], 0.0)
            w = tl.permute(w, (1, 0, 2)).reshape(BLOCK_C, BLOCK_K)
        else:
            if PACKED:
                at = w_at + first(lane_k, LAST)
                known = lane_k < in_channels * taps
            else:
                at = w_at + first(source * w_in, LAST) + (w_j_y * every_y * w_y + w_j_x * every_x * w_x)
            w = tl.load(w_ptr + at, first(known, LAST) & second(channel < out_channels, LAST), 0.0)
        if WIDEN:
            x, w = x.to(acc_t), w.to(acc_t)
        if LAST:
            total = tl.dot(x, w, total, input_precision=PRECISION, out_dtype=acc_t)
        else:
            total = tl.dot(w, x, total, input_precision=PRECISION, out_dtype=acc_t)
        if not FLAT:  # the next tap, or the first of the next channels
            j_x += 1
            j_y = tl.where(j_x == taps_x, j_y + 1, j_y)
            j_x = tl.where(j_x == taps_x, 0, j_x)
            block = tl.where(j_y == taps_y, block + BLOCK_K, block)
            j_y = tl.where(j_y == taps_y, 0, j_y)

    # Of tiles of one shape Triton gives loads the store's packs: lanes far apart in x. So that of packs is transposed.
    TURNED: tl.constexpr = Y_X_UNIT > 1
    FIRST: tl.constexpr = LAST or TURNED
    if TURNED:
        total = tl.trans(total)
    known = channel < out_channels
    channel = group * out_channels + channel
    y_row, y_column = row * step_y + phase_y, column * step_x + phase_x
    at = first(image * y_n + y_row * y_y + y_column * y_x, FIRST) + second(channel * y_c, FIRST)
    ok = first(inside, FIRST) & second(known, FIRST)
    if z_ptr is not None:
        tl.store(z_ptr + at, total.to(z_ptr.dtype.element_ty), ok)
    total = finished(
        total, bias_ptr, y_scale_ptr, noise_ptr, channel, known, image, inside, y_row * y_width + y_column,
        groups * out_channels, noise_pitch, alpha, gain, clamp, BIAS, ACT, CLAMP, ALONE, FIRST,
    )  # fmt: skip
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), ok)


_KEYS = (
    "size_class", "in_channels", "out_channels", "kernel_y", "kernel_x", "stride_y", "stride_x", "TRANSPOSED", "LAST",
    "ACT", "ALONE",
)  # fmt: skip


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, size: list[int], transposed: bool, scale: Tensor | None = None, finish: Finish | None = None,
    bare: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """conv2d, or conv_transpose2d where `transposed`; `size` is [H, W] of the result.

    `scale`, [N, I], multiplies x on its way in; `finish` comes on the way out, and to `bare`, in the layout of the
    result, goes what came before.
    """
    finish = finish or Finish()
    a_group = weight.shape[0] // groups
    in_channels, out_channels = (a_group, weight.shape[1]) if transposed else (weight.shape[1], a_group)
    y = empty_result(x, weight, (x.shape[0], out_channels * groups, *size))
    if not y.numel():
        return y
    scale, y_scale, noise = (t if t is None else t.contiguous() for t in (scale, finish.scale, finish.noise))
    plan, last = tiles.Plan(x.dtype), x.stride(1) == 1
    if plan.how == "plain" and last and not transposed and weight.stride(1) == 1:
        # Without tensor cores a dot reads columns of the weight: in channels_last each would lie in one bank.
        weight = weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    w_in, w_out = weight.stride()[:2] if transposed else weight.stride()[1::-1]
    if bias is not None:
        bias = bias.contiguous()
    if strided := transposed and stride != [1, 1]:
        steps = stride
    else:
        steps = [1, 1]
        if transposed:  # a convolution that walks through its taps backwards
            padding, dilation = [-p for p in padding], [-d for d in dilation]
    common = [gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
    inverse = [pow(d // c, -1, s // c) for s, d, c in zip(stride, dilation, common, strict=True)]
    w_y, w_x = weight.stride()[2:]
    point = not strided and [*weight.shape[2:], *stride, *padding] == [1, 1, 1, 1, 0, 0]
    an_image = triton.cdiv(size[0], steps[0]) * triton.cdiv(size[1], steps[1])
    pixels = x.shape[0] * an_image
    # Numbers a sample are then one line for a tile, not one for each of its pixels; small images would leave gaps.
    alone = (scale is not None or y_scale is not None) and an_image >= _ALONE
    taps = [triton.cdiv(k, s) for k, s in zip(weight.shape[2:], steps, strict=True)]
    flat = taps != [1, 1] and (not last or tiles.few(in_channels, taps[0] * taps[1], plan.block))
    # Every phase has as many taps: then the division by their number is by a constant.
    alike = (
        flat
        and in_channels >= plan.block
        and all(k % s == 0 for k, s in zip(weight.shape[2:], steps, strict=True))
        and common == [1, 1]
    )
    packed = flat and not transposed and weight[0].is_contiguous()
    # The taps of a channel lie together, those of the next one in the sum far away: lanes that differ in both axes.
    run = triton.next_power_of_2(taps[0] * taps[1]) if flat and not last and not packed else 0
    run = run if run < plan.block else 0
    w_group = a_group * weight.stride(0)

    item, (x_n, x_c, x_y, x_x), (y_n, y_c, y_y, y_x) = x.element_size(), x.stride(), y.stride()
    if last:
        x_unit = unit(item, x_c, in_channels, x_n, x_y, x_x)
    else:  # a tap shifts the others' lines
        x_unit = unit(item, x_x, size[1], x_n, x_c, x_y) if point else 1
    w_in_unit = unit(item, w_in, in_channels, w_out, w_group, w_y, w_x) if not flat else 1
    if packed:
        w_in_unit = unit(item, 1, in_channels, w_out, w_group)
    units = {
        "X_UNIT": x_unit,
        "W_IN_UNIT": w_in_unit,
        "W_OUT_UNIT": unit(item, w_out, out_channels, w_in, w_group, w_y, w_x) if w_in_unit == 1 else 1,
        "Y_C_UNIT": unit(item, y_c, out_channels, y_n, y_y, y_x) if last else 1,
        "Y_X_UNIT": unit(item, y_x, size[1], y_n, y_c, y_y) if not last and not strided else 1,
    }

    def grid(meta):
        tile = triton.cdiv(an_image, meta["BLOCK_P"]) * x.shape[0] if alone else triton.cdiv(pixels, meta["BLOCK_P"])
        return (tile * steps[0] * steps[1] * groups * triton.cdiv(out_channels, meta["BLOCK_C"]),)

    plan.tuned(_convolve, _KEYS, scale is not None, last)[grid](
        x, weight, bias, y, bare, scale, y_scale, noise,
        x.shape[0], in_channels, out_channels, groups, *x.shape[2:], *size,
        *x.stride(), w_in, w_out, w_group, w_y, w_x, *y.stride(),
        *weight.shape[2:], *stride, *padding, *dilation, *common, *inverse, tiles.size_class(pixels),
        size[0] * size[1] if noise is not None and noise.shape[0] > 1 else 0, finish.alpha, finish.gain, finish.clamp,
        ACT=finish.act, CLAMP=finish.clamp >= 0, ALONE=alone,
        TRANSPOSED=strided, POINT=point, BIAS=bias is not None, LAST=last, FLAT=flat, PACKED=packed,
        RUN=run,
        TAPS_Y=taps[0] if alike else 0, TAPS_X=taps[1] if alike else 0, BIG=tiles.needs_64_bit(x, weight, y),
        **units, **plan.constants,
    )  # fmt: skip
    return y
