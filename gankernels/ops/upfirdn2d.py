"""upfirdn2d: zero-insert, pad, convolve with an FIR filter, decimate, in one pass; and its helpers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _arrays, _check, upfirdn2d_op

Pair = int | Sequence[int]
"""One number for both axes, or ``[x, y]``."""


def upfirdn2d(
    x: Tensor,
    filter: Tensor | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample by zero insertion, pad or crop, filter each channel, keep every ``down``-th sample.

    Args:
        x: [N, C, H, W], float64, float32, bfloat16 or float16.
        filter: [KH, KW]; [K], separable, applied along both axes; or None, the identity. float32, or dtype of ``x``.
        up, down: factors, n or [x, y], at least 1, both at once if wanted.
        padding: n, [x, y] or [x0, x1, y0, y1] samples of the upsampled image; negative numbers crop.
        flip_filter: False is a convolution, True a correlation.
        gain: scales the result once, also with a separable filter.

    Returns: [N, C, H', W'] with H' = (H * up + y0 + y1 - KH + down) // down, dtype and memory format of ``x``.
        Sums are float32, or float64 for a float64 ``x``. Differentiable to any order in ``x`` and ``filter``.
        Under autocast ``x`` keeps its dtype and a filter of another dtype is read as float32.
    Raises: ValueError for a bad shape, dtype, device or factor, and for an empty output.

    Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020; Zhang, "Making Convolutional Networks
    Shift-Invariant Again", 2019.
    """
    return _run("upfirdn2d", x, filter, up, down, padding, flip_filter, gain)


def _run(op, x, filter, up, down, padding, flip_filter, gain) -> Tensor:
    filter = checked_filter(op, x, filter, "filter" if op == "upfirdn2d" else "f")
    _check.channels(op, "x", x)
    (ux, uy), (dx, dy), (x0, x1, y0, y1), gain = arguments(op, filter, up, down, padding, gain).values()
    kh, kw = filter_size(filter)
    h = upfirdn2d_op.out_size(x.shape[2], uy, dy, y0, y1, kh)
    w = upfirdn2d_op.out_size(x.shape[3], ux, dx, x0, x1, kw)
    if h < 1 or w < 1:
        raise ValueError(
            f"{op}: the output would be empty, [H, W] = [{h}, {w}], for x {list(x.shape)}, up {[ux, uy]}, "
            f"down {[dx, dy]}, padding {[x0, x1, y0, y1]} and a filter of [{kh}, {kw}] taps; pad more or crop less"
        )
    _check.pixels(op, [h, w], x)
    fy = filter if filter.ndim == 1 else None
    run = _backend.pick("upfirdn2d", x)
    return run(x, filter, fy, [ux, uy], [dx, dy], [x0, x1, y0, y1], bool(flip_filter), gain)


def setup_filter(
    f: Any,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for ``upfirdn2d`` from taps: a tensor, an array or nested lists; the argument is not changed.

    Args:
        f: [KH, KW], [K], a single number, or None (one tap of 1).
        normalize: divide by the sum, so that a constant image keeps its value.
        flip_filter: reverse the taps.
        gain: scales the filter's total; the factor is split between the axes of a separable filter.
        separable: keep a 1-D filter 1-D; default: with 8 taps or more, else its outer product is returned.

    Returns: [K] or [KH, KW], on the device of ``f``. Differentiable in ``f``.
    Raises: ValueError for a filter that is empty, of more than two dimensions, or sums to 0 while ``normalize``; for
        ``separable=True`` with a 2-D filter; for a negative ``gain`` with a separable one (no real filter does that on
        both axes: give ``upfirdn2d`` the gain).
    """
    taps = torch.as_tensor(1.0 if f is None else _arrays.as_tensor("setup_filter", "f", f))
    if taps.is_complex() or taps.dtype == torch.bool:
        raise ValueError(f"setup_filter: f has dtype {taps.dtype}, expected real numbers")
    gain = _check.finite("setup_filter", "gain", gain)
    if taps.device.type == "meta":
        raise ValueError("setup_filter: f is on meta, expected taps with numbers; move it")
    taps = taps.to(torch.float64)
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"setup_filter: f has shape {list(taps.shape)}, expected [KH, KW], [K] or a number, not empty")
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if separable and taps.ndim != 1:
        raise ValueError(f"setup_filter: f has shape {list(taps.shape)}, expected [K] with separable=True")
    if separable and gain < 0:
        raise ValueError(
            f"setup_filter: gain {gain} is negative, which a separable filter cannot hold; pass it to upfirdn2d"
        )
    if not separable and taps.ndim == 1:
        taps = torch.outer(taps, taps)
    if normalize:
        total = taps.sum()
        if total == 0:
            raise ValueError("setup_filter: f sums to 0 and cannot be normalized; pass normalize=False")
        taps = taps / total
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    taps = taps * gain ** (taps.ndim / 2)
    return taps.to(torch.float32)


def filter2d(x: Tensor, f: Tensor | None, *, padding: Pair = 0, flip_filter: bool = False, gain: float = 1) -> Tensor:
    """Filter without changing the size: `upfirdn2d` whose padding is that and taps // 2 before, (taps - 1) // 2 after.

    Args:
        x: [N, C, H, W].
        f, padding, flip_filter, gain: as in `upfirdn2d`, where f is `filter`.

    Returns: [N, C, H, W] where padding is 0, dtype and layout as from `upfirdn2d`.
        Differentiable in x and f to any order.
    Raises: what `upfirdn2d` does, by this function's name.
    """
    return _run("filter2d", x, f, 1, 1, padding, flip_filter, gain)


def upsample2d(
    x: Tensor, f: Tensor | None, *, up: Pair = 2, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Upsample and filter: `upfirdn2d` whose gain is that times the product of the factors.

    Args:
        x: [N, C, H, W].
        up: factor, or [x, y].
        padding: added to (taps + up - 1) // 2 before and (taps - up) // 2 after.
        f, flip_filter, gain: as in `upfirdn2d`, where f is `filter`.

    Returns: [N, C, H up, W up] where padding is 0, dtype and layout as from `upfirdn2d`.
        Differentiable in x and f to any order.
    Raises: what `upfirdn2d` does, by this function's name.
    """
    return _run("upsample2d", x, f, up, 1, padding, flip_filter, gain)


def downsample2d(
    x: Tensor, f: Tensor | None, *, down: Pair = 2, padding: Pair = 0, flip_filter: bool = False, gain: float = 1
) -> Tensor:
    """Filter and keep every `down`-th sample.

    Args:
        x: [N, C, H, W].
        down: step, or [x, y].
        padding: added to (taps - down + 1) // 2 before and (taps - down) // 2 after.
        f, flip_filter, gain: as in `upfirdn2d`, where f is `filter`.

    Returns: [N, C, H / down, W / down] where padding is 0, dtype and layout as from `upfirdn2d`.
        Differentiable in x and f to any order.
    Raises: what `upfirdn2d` does, by this function's name.
    """
    return _run("downsample2d", x, f, 1, down, padding, flip_filter, gain)


_GROWTH = {  # of the padding before and after, for the taps, up and down of an axis
    "upfirdn2d": lambda k, u, d: (0, 0),
    "filter2d": lambda k, u, d: (k // 2, (k - 1) // 2),
    "upsample2d": lambda k, u, d: ((k + u - 1) // 2, (k - u) // 2),
    "downsample2d": lambda k, u, d: ((k - d + 1) // 2, (k - d) // 2),
}


def arguments(op: str, f: Tensor | None, up: Pair, down: Pair, padding: Pair, gain: float) -> dict:
    """up, down, padding and gain, checked and whole, of the `upfirdn2d` that the function named `op` is."""
    up, down, (x0, x1, y0, y1) = factors(op, "up", up), factors(op, "down", down), sides(op, padding)
    gain = _check.finite(op, "gain", gain)
    kh, kw = filter_size(f)
    grow = _GROWTH[op]
    (gx0, gx1), (gy0, gy1) = grow(kw, up[0], down[0]), grow(kh, up[1], down[1])
    if op == "upsample2d":
        gain *= up[0] * up[1]
    return {"up": [*up], "down": [*down], "padding": [x0 + gx0, x1 + gx1, y0 + gy0, y1 + gy1], "gain": gain}


def reference(
    x: Tensor, f: Tensor, fy: Tensor | None, up: list[int], down: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    """The definition: `f` is [KH, KW], or the horizontal taps where `fy` holds the vertical ones."""
    n, c, h, w = x.shape
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, padding
    acc = torch.promote_types(x.dtype, torch.float32)
    y = F.pad(x.to(acc).reshape(n * c, 1, h, 1, w, 1), [0, ux - 1, 0, 0, 0, uy - 1])
    y = y.reshape(n * c, 1, h * uy, w * ux)
    y = F.pad(y, [max(p, 0) for p in padding])
    y = y[:, :, max(-y0, 0) : y.shape[2] - max(-y1, 0), max(-x0, 0) : y.shape[3] - max(-x1, 0)]
    kernels = [f] if fy is None else [f[None, :], fy[:, None]]
    for kernel, stride in zip(kernels, [(dy, dx)] if fy is None else [(1, dx), (dy, 1)], strict=True):
        kernel = kernel.to(acc) if flip else kernel.to(acc).flip([0, 1])
        y = F.conv2d(y, kernel[None, None], stride=stride)
    y = (y * gain).reshape(n, c, *y.shape[2:])
    return y.to(x.dtype).contiguous(memory_format=_check.kept_format(x))


def factors(op: str, name: str, value: Pair) -> tuple[int, int]:
    """(x, y), each 1 or more."""
    pair = (value, value) if type(value) is int else _whole_numbers(op, name, value, (2,))
    if pair[0] < 1 or pair[1] < 1:
        raise ValueError(f"{op}: {name} is {value}, expected 1 or more on each axis")
    return pair


def sides(op: str, value: Pair) -> Sequence[int]:
    """The four numbers [x0, x1, y0, y1] of a padding."""
    given = (value, value) if type(value) is int else _whole_numbers(op, "padding", value, (2, 4))
    return given if len(given) == 4 else (given[0], given[0], given[1], given[1])


def _whole_numbers(op: str, name: str, value: Any, lengths: tuple[int, ...]) -> Sequence:
    """One number for both axes, or as many as one of `lengths`."""
    numbers = value if isinstance(value, list | tuple) else (value, value)
    whole = all(type(v) is int or (isinstance(v, Integral | torch.SymInt) and type(v) is not bool) for v in numbers)
    if not whole or len(numbers) not in lengths:
        forms = "n, [x, y] or [x0, x1, y0, y1]" if 4 in lengths else "n or [x, y]"
        raise ValueError(f"{op}: {name} is {value!r}, expected whole numbers as {forms}")
    return numbers


def filter_size(f: Tensor | None) -> tuple[int, int]:
    """(KH, KW) of a filter."""
    if f is None:
        return 1, 1
    return f.shape[0], f.shape[-1]


def checked_filter(op: str, x: Tensor, f: Tensor | None, name: str = "filter") -> Tensor:
    """The filter as float32 or the dtype of `x`, after the autocast rule."""
    _check.floating(op, "x", x)
    if x.ndim != 4 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, C, H, W] with H and W at least 1")
    if f is None:
        return x.new_ones((1, 1), dtype=torch.float32)
    _check.floating(op, name, f)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {list(f.shape)}, expected [K] or [KH, KW], not empty")
    if f.dtype not in (x.dtype, torch.float32) and torch.is_autocast_enabled(x.device.type):
        f = f.float()
    if f.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"{op}: {name} has dtype {f.dtype}, expected float32 or that of x, {x.dtype}; convert it")
    if f.device != x.device:
        raise ValueError(f"{op}: {name} is on {f.device}, expected the device of x, {x.device}; move it")
    return f


_backend.register(
    "upfirdn2d",
    reference=reference,
    cpu=_backend.native("upfirdn2d"),
    cuda=_backend.native("upfirdn2d"),
    triton=upfirdn2d_op.upfirdn2d,
)
