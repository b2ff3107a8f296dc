"""conv2d_resample: a convolution joined with an up- or downsampling FIR filter, in the order that multiplies least."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, conv2d  # noqa: F401  registers what this is made of
from gankernels.ops.upfirdn2d import Pair, checked_filter, factors, filter_size, sides


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Insert zeros and filter (gain ``up`` squared), convolve, filter and decimate: a convolution that resamples.

    It runs in another order with the same result: up as a transposed convolution of the samples themselves and then
    the filter, down as the filter and then a strided convolution, 1x1 kernels at the lower resolution.

    Args:
        x: [N, I, H, W]; float16, bfloat16, float32 or float64; N may be 0.
        w: [O, I / groups, kh, kw], dtype and device of x.
        f: FIR filter as in `upfirdn2d`, used before the convolution where up > 1 and after it where down > 1.
        up, down: factors, n or [x, y], 1 or more.
        padding: n, [x, y] or [x0, x1, y0, y1] samples of the upsampled image; negative numbers crop. Where up > 1
            it grows by (taps + up - 1) // 2 before and (taps - up) // 2 after, where down > 1 by
            (taps - down + 1) // 2 and (taps - down) // 2.
        groups: channels are cut into so many independent convolutions.
        flip_weight: True is a correlation (as `torch.nn.functional.conv2d`), False a true convolution.
        flip_filter: the same of f: True correlates.

    Returns: [N, O, ceil(L / down), ...], L = H up + y0 + y1 + 1 - kh, less taps - 1 for each use of the filter, with
        the grown padding: kh = 3 and padding = 1 give H up / down. channels_last if x or w is, else contiguous.
        Differentiable in x, w and f, to any order; a gradient that is not asked for is not computed. Under autocast
        x and w are cast to its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for an empty result.

    Karras et al. 2020, arXiv 1912.04958.
    """
    op = "conv2d_resample"
    x, w, f = operands(op, x, w, f, groups, "w")
    up, down, pads, _ = geometry(op, x, w, f, up, down, padding)
    run = _backend.pick(op, x)
    return run(x, w, f, up, down, pads, groups, bool(flip_weight), bool(flip_filter))


def operands(op: str, x: Tensor, w: Tensor, f: Tensor | None, groups: int, w_name: str):
    """x, weight and filter after the checks and the autocast rule."""
    _check.floating(op, "x", x)
    dtype = _check.autocast_dtype(x)
    _check.tensor(op, w_name, w)
    if dtype is not None:
        x, w = (t.to(dtype) if t.is_floating_point() and t.device == x.device else t for t in (x, w))
    _check.rank(op, "x", x, 4, "[N, I, H, W]")
    if 0 in x.shape[1:]:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected no empty dimension but the batch")
    _check.like(op, w_name, w, x)
    _check.rank(op, w_name, w, 4, "[O, I / groups, kh, kw]")
    if 0 in w.shape:
        raise ValueError(f"{op}: {w_name} has shape {list(w.shape)}, expected no empty dimension")
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ValueError(f"{op}: groups is {groups!r}, expected an integer of 1 or more")
    if w.shape[0] % groups:
        raise ValueError(f"{op}: groups is {groups}, expected a divisor of {w_name}.shape[0], which is {w.shape[0]}")
    if x.shape[1] != w.shape[1] * groups:
        raise ValueError(
            f"{op}: x has {x.shape[1]} channels, expected {w.shape[1] * groups} as {w_name} {list(w.shape)} "
            f"in {groups} groups"
        )
    if f is not None:
        f = checked_filter(op, x, f, "f" if w_name == "w" else "resample_filter")
    return x, w, f


def geometry(op, x, w, f, up, down, padding):
    """up and down as (x, y), the whole padding [x0, x1, y0, y1] and the [H, W] of the result."""
    up, down = (tuple(map(_check.constant, factors(op, name, value))) for name, value in (("up", up), ("down", down)))
    given = tuple(map(_check.constant, sides(op, padding)))
    taps = tuple(map(_check.constant, filter_size(f)[::-1]))
    kernel = tuple(map(_check.constant, (w.shape[3], w.shape[2])))
    pads, size = [], []
    for axis in (0, 1):
        before, after = given[2 * axis : 2 * axis + 2]
        u, d, k = up[axis], down[axis], taps[axis]
        length = x.shape[3 - axis] * u - kernel[axis] + 1
        if u > 1:
            before, after, length = before + (k + u - 1) // 2, after + (k - u) // 2, length - k + 1
        if d > 1:
            before, after, length = before + (k - d + 1) // 2, after + (k - d) // 2, length - k + 1
        pads += [before, after]
        size.append((length + before + after + d - 1) // d)
    if min(size) < 1:
        raise ValueError(
            f"{op}: the result would be empty, [H, W] = {size[::-1]}, for x {list(x.shape)}, a weight of "
            f"{list(w.shape)}, up {list(up)}, down {list(down)} and padding {list(given)}; pad more or crop less"
        )
    _check.pixels(op, size[::-1], x)
    return up, down, pads, size[::-1]


def _by_operators(x, w, stride, padding, groups, size, transposed) -> Tensor:
    op = "conv_transpose2d" if transposed else "conv2d"
    return _backend.pick(op, x)(x, w, None, stride, padding, [1, 1], groups, size)


def compose(x, w, f, up, down, pads, groups, flip_weight, flip_filter, convolution=_by_operators, scale=None) -> Tensor:
    """The result by the kernels of the operators it consists of; `pads`, [x0, x1, y0, y1], is the whole padding.

    `convolution` is called once: before any filter where up > 1, else after it, as the last step. `scale`, [N, O],
    multiplies the result where `joins` says so.

    Filters and convolution commute, and nothing but zeros lies outside the image: so any order gives the same numbers
    as long as what lies between is wide enough.
    """
    one, none = (1, 1), (0, 0, 0, 0)
    pointwise = w.shape[2] * w.shape[3] == 1
    turned = flip_weight if max(up) > 1 else not flip_weight  # a transposed convolution turns the weight by itself
    if turned and not pointwise:
        w = w.flip([2, 3])
    if max(up) > 1:
        gain = 1.0 * up[0] * up[1]
        if f is None:
            w, gain = w * gain, 1.0
        if pointwise:
            y = _fir(_convolve(x, w, one, none, groups, convolution), f, up, one, pads, flip_filter, gain)
        else:
            last = (
                (f, flip_filter, gain, scale) if convolution is _by_operators and joins(x, w, f, up, groups) else None
            )
            y, pads = _transposed(x, w, up, pads, groups, convolution, last)
            if last is None:
                y = _fir(y, f, one, one, pads, flip_filter, gain)
        return y if max(down) == 1 else _fir(y, f, one, down, none, flip_filter)
    if max(down) == 1:
        return _convolve(x, w, one, pads, groups, convolution)
    if pointwise:
        return _convolve(_fir(x, f, one, down, pads, flip_filter), w, one, none, groups, convolution)
    if f is None:
        return _convolve(x, w, down, pads, groups, convolution)
    return _convolve(_fir(x, f, one, one, pads, flip_filter), w, down, none, groups, convolution)


def _fir(x, f, up, down, pads, flip_filter, gain=1.0) -> Tensor:
    if f is None and max(*up, *down) == 1:
        return _padded(x, pads)
    taps = x.new_ones((1, 1)) if f is None else f
    run = _backend.pick("upfirdn2d", x)
    return run(x, taps, taps if taps.ndim == 1 else None, list(up), list(down), list(pads), flip_filter, gain)


def _padded(x, pads) -> Tensor:
    for part in ([max(p, 0) for p in pads], [min(p, 0) for p in pads]):  # a crop may reach into what was padded
        x = F.pad(x, part) if any(part) else x
    return x


def _convolve(x, w, stride, pads, groups, convolution) -> Tensor:
    x0, x1, y0, y1 = pads
    if x0 != x1 or y0 != y1 or x0 < 0 or y0 < 0:
        x, x0, y0 = _padded(x, pads), 0, 0
    padding, step = [y0, x0], [stride[1], stride[0]]
    size = [(x.shape[2 + d] + 2 * padding[d] - w.shape[2 + d]) // step[d] + 1 for d in (0, 1)]
    return convolution(x, w, step, padding, groups, size, False)


def joins(x, w, f, up, groups) -> bool:
    """Whether the CPU's kernel that convolves upwards, filters and scales in one pass is the one to call."""
    wide = f is not None and max(up) > 1 and groups == 1 and w.shape[2] * w.shape[3] > 1
    return wide and all(_backend.runs_on_cpu_kernels(op, x) for op in ("conv_transpose2d", "upfirdn2d"))


def _transposed(x, w, up, pads, groups, convolution, last) -> tuple[Tensor, list[int]]:
    """The whole true convolution of the upsampled image, as far as it is wanted; and what is still to pad.

    `last`, the filter with its direction and gain and a scale of the result, is done too where it is given.
    """
    w = _for_transposed(w, groups)
    crop, left, size = [], [], []
    for axis in (1, 0):  # rows first, as the convolutions have it
        k = w.shape[3 - axis]
        before, after = pads[2 * axis] - (k - 1), pads[2 * axis + 1] + up[axis] - k
        cut = max(0, min(-before, -after))
        crop.append(cut)
        left = [before + cut, after + cut, *left]
        size.append((x.shape[3 - axis] - 1) * up[axis] + k - 2 * cut)
    if last is None:
        return convolution(x, w, [up[1], up[0]], crop, groups, size, True), left
    f, flip, gain, scale = last
    fy, stride = f if f.ndim == 1 else None, [up[1], up[0]]
    run = torch.ops.gankernels_native.conv_transpose2d_filter
    return run(x, w, f, fy, scale, stride, crop, size, left, flip, gain), []


def _for_transposed(w, groups) -> Tensor:
    """[I, O / groups, kh, kw] of [O, I / groups, kh, kw]."""
    if groups > 1:
        return w.unflatten(0, (groups, w.shape[0] // groups)).transpose(1, 2).flatten(0, 1)
    if _backend.runs_on_cpu_kernels("conv_transpose2d", w):
        return torch.ops.gankernels_native.transpose_kernels(w)
    return w.transpose(0, 1)


_backend.register_compound("conv2d_resample", compose, "conv2d", "conv_transpose2d", "upfirdn2d")
