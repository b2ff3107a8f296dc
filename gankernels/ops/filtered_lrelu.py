"""filtered_lrelu: bias, upsample, leaky ReLU and clamp, downsample, without ever storing the upsampled image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, filtered_lrelu_op, upfirdn2d_op
from gankernels.ops.bias_act import reference as bias_act
from gankernels.ops.bias_act import resolve
from gankernels.ops.upfirdn2d import Pair, checked_filter, factors, filter_size, sides
from gankernels.ops.upfirdn2d import reference as upfirdn2d

_OP = "filtered_lrelu"


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """``downsample(clamp(gain * lrelu(upsample(x + bias))))``: a leaky ReLU at a higher sampling rate, as one pass.

    Args:
        x: [N, C, H, W], C at least 1; float64, float32, bfloat16 or float16.
        fu: the upsampling filter, applied with a gain of up[0] * up[1]: [KH, KW]; [K], separable; or None, the
            identity. float32, or dtype of ``x``.
        fd: the downsampling filter, likewise, with a gain of 1.
        bias: [C], dtype and device of ``x``; None for none.
        up, down: factors, n or [x, y], at least 1.
        padding: n, [x, y] or [x0, x1, y0, y1] samples of the upsampled image; negative numbers crop. What is outside
            the image is 0, without the bias.
        gain: factor of the leaky ReLU, any sign.
        slope: of the leaky ReLU below zero; any, for the sign that is kept is that of its argument, not of its result.
        clamp: bound of the magnitude before ``fd``, 0 or more; None for none. At it the gradient is torch.clamp's.
        flip_filter: False is a convolution, True a correlation, of both filters.

    Returns: [N, C, H', W'], H' = (UH - KH(fd) + down) // down, UH = H * up + y0 + y1 - KH(fu) + 1; dtype and memory
        format of ``x``. Sums are float32, or float64 for a float64 ``x``. Differentiable to any order in ``x`` and
        ``bias``; what is kept for it is two bits a sample of the upsampled image. Not in the filters: one that requires
        a gradient raises. Under autocast ``x`` keeps its dtype, ``bias`` is cast to it, and a filter of another dtype
        is read as float32.
    Raises: ValueError for a bad shape, dtype, device, factor or number, for a filter larger than the image that it is
        applied to, and for a filter that requires a gradient.

    Karras et al., "Alias-Free Generative Adversarial Networks", 2021.
    """
    ux, uy = factors(_OP, "up", up)
    dx, dy = factors(_OP, "down", down)
    x0, x1, y0, y1 = sides(_OP, padding)
    slope, gain, clamp = resolve(_OP, "lrelu", _check.finite(_OP, "slope", slope), gain, clamp)
    fu, fd = _filter("fu", x, fu), _filter("fd", x, fd)
    if x.shape[1] == 0:
        raise ValueError(f"{_OP}: x has shape {list(x.shape)}, expected [N, C, H, W] with C at least 1")
    bias = _checked_bias(x, bias)
    (uh, uw), taps = filter_size(fu), filter_size(fd)
    h = upfirdn2d_op.out_size(x.shape[2], uy, 1, y0, y1, uh)
    w = upfirdn2d_op.out_size(x.shape[3], ux, 1, x0, x1, uw)
    if h < 1 or w < 1:
        raise ValueError(
            f"{_OP}: fu has [{uh}, {uw}] taps, more than the upsampled and padded image [{h + uh - 1}, {w + uw - 1}] "
            f"of x {list(x.shape)}, up {[ux, uy]}, padding {[x0, x1, y0, y1]}; pad more or crop less"
        )
    _check.pixels(_OP, [h, w], x)  # of the upsampled image, which no image of the result exceeds
    if h < taps[0] or w < taps[1]:
        raise ValueError(
            f"{_OP}: fd has {list(taps)} taps, more than the upsampled image [{h}, {w}] of x {list(x.shape)}, up "
            f"{[ux, uy]}, padding {[x0, x1, y0, y1]} and fu of [{uh}, {uw}] taps; pad more or crop less"
        )
    fuy, fdy = (f if f.ndim == 1 else None for f in (fu, fd))
    numbers = [ux, uy], [dx, dy], [x0, x1, y0, y1], bool(flip_filter), gain, slope, clamp
    return _backend.pick(_OP, x)(x, bias, fu, fuy, fd, fdy, *numbers)


def reference(
    x: Tensor,
    bias: Tensor | None,
    fu: Tensor,
    fuy: Tensor | None,
    fd: Tensor,
    fdy: Tensor | None,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip: bool,
    gain: float,
    slope: float,
    clamp: float,
) -> Tensor:
    """The definition. `fuy` and `fdy` are the vertical taps of a separable filter, None where it is [KH, KW]."""
    acc = torch.promote_types(x.dtype, torch.float32)  # for all of it: there is no rounded image in between
    with torch.autocast(x.device.type, enabled=False):
        y = bias_act(x.to(acc), None if bias is None else bias.to(acc), 1, "linear", 0.0, 1.0, -1.0)
        y = upfirdn2d(y, fu, fuy, up, [1, 1], padding, flip, up[0] * up[1])
        y = bias_act(y, None, 1, "lrelu", slope, gain, clamp)
        return upfirdn2d(y, fd, fdy, [1, 1], down, [0, 0, 0, 0], flip, 1).to(x.dtype)


def _filter(name: str, x: Tensor, f: Tensor | None) -> Tensor:
    f = checked_filter(_OP, x, f, name)
    if f.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{_OP}: {name} requires a gradient, expected a fixed filter; detach it, or compose upfirdn2d and bias_act"
        )
    return f


def _checked_bias(x: Tensor, bias: Tensor | None) -> Tensor | None:
    if bias is None:
        return None
    if _check.autocast_dtype(x) is not None and isinstance(bias, Tensor) and bias.is_floating_point():
        bias = bias.to(x.dtype)
    _check.like(_OP, "bias", bias, x)
    if tuple(bias.shape) != (x.shape[1],):
        raise ValueError(f"{_OP}: bias has shape {list(bias.shape)}, expected [{x.shape[1]}] (x.shape[1])")
    return bias


_native = _backend.native(_OP)
_backend.register(_OP, reference=reference, cpu=_native, cuda=_native, triton=filtered_lrelu_op.triton)
