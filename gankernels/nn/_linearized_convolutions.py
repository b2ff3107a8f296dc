"""Convolutions and FIR filters with their derivative in x: parts of `gankernels.nn.linearized`."""

from __future__ import annotations

from torch import Tensor

from gankernels import ops
from gankernels.nn._linearize import Linearization, chain
from gankernels.ops import upfirdn2d_op
from gankernels.ops.conv2d import _pair
from gankernels.ops.conv2d_resample import geometry, operands
from gankernels.ops.upfirdn2d import arguments, factors, filter_size, sides


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> tuple[Tensor, Linearization]:
    """`ops.conv2d`."""
    y = ops.conv2d(x, weight, bias, stride, padding, dilation, groups)
    strides, dilations, before, after, spare = _conv_geometry(x, weight, stride, padding, dilation)

    def adjoint(g: Tensor) -> Tensor:
        whole = ops.conv_transpose2d(g, weight, None, strides, before, spare, groups, dilations)
        return whole[:, :, : whole.shape[2] - after[0], : whole.shape[3] - after[1]].to(x.dtype)

    return y, Linearization(lambda t: ops.conv2d(t, weight, None, stride, padding, dilation, groups), adjoint)


def _conv_geometry(x, weight, stride, padding, dilation):
    """Stride and dilation by axis, padding at every side, what "same" adds after x, and the transposed convolution's
    output_padding that gives the padded size back."""
    stride, dilation = _pair("conv2d", "stride", stride, 1), _pair("conv2d", "dilation", dilation, 1)
    after = [0, 0]
    if padding == "valid":
        padding = 0
    elif padding == "same":
        reach = [dilation[d] * (weight.shape[2 + d] - 1) for d in (0, 1)]
        padding, after = [r // 2 for r in reach], [r % 2 for r in reach]
    before = _pair("conv2d", "padding", padding, 0)
    spare = [
        (x.shape[2 + d] + after[d] + 2 * before[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) % stride[d]
        for d in (0, 1)
    ]
    return stride, dilation, before, after, spare


def conv_transpose2d(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> tuple[Tensor, Linearization]:
    """`ops.conv_transpose2d`."""
    y = ops.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    h, w = x.shape[2:]

    def adjoint(g: Tensor) -> Tensor:
        return ops.conv2d(g, weight, None, stride, padding, dilation, groups)[:, :, :h, :w].to(x.dtype)

    def tangent(t: Tensor) -> Tensor:
        return ops.conv_transpose2d(t, weight, None, stride, padding, output_padding, groups, dilation)

    return y, Linearization(tangent, adjoint)


def upfirdn2d(x, filter, *, up=1, down=1, padding=0, flip_filter=False, gain=1) -> tuple[Tensor, Linearization]:
    """`ops.upfirdn2d`; its adjoint is upfirdn2d again, up and down swapped and the filter turned."""
    options = {"up": up, "down": down, "padding": padding, "flip_filter": flip_filter, "gain": gain}
    y = ops.upfirdn2d(x, filter, **options)
    back = _adjoint_padding(x, y, filter, up, down, padding)

    def adjoint(g: Tensor) -> Tensor:
        return ops.upfirdn2d(g, filter, up=down, down=up, padding=back, flip_filter=not flip_filter, gain=gain)

    return y, Linearization(lambda t: ops.upfirdn2d(t, filter, **options), adjoint)


def _adjoint_padding(x, y, filter, up, down, padding) -> list[int]:
    padded = sides("upfirdn2d", padding)
    taps = filter_size(filter)[::-1]
    ups, downs = factors("upfirdn2d", "up", up), factors("upfirdn2d", "down", down)
    out = []
    for axis, dim in ((0, 3), (1, 2)):  # horizontal first
        a = (x.shape[dim], y.shape[dim], ups[axis], downs[axis], padded[2 * axis], taps[axis])
        out += upfirdn2d_op.adjoint_padding(*a)
    return out


def filter2d(x, f, *, padding=0, flip_filter=False, gain=1) -> tuple[Tensor, Linearization]:
    """`ops.filter2d`."""
    return upfirdn2d(x, f, **arguments("filter2d", f, 1, 1, padding, gain), flip_filter=flip_filter)


def upsample2d(x, f, *, up=2, padding=0, flip_filter=False, gain=1) -> tuple[Tensor, Linearization]:
    """`ops.upsample2d`."""
    return upfirdn2d(x, f, **arguments("upsample2d", f, up, 1, padding, gain), flip_filter=flip_filter)


def downsample2d(x, f, *, down=2, padding=0, flip_filter=False, gain=1) -> tuple[Tensor, Linearization]:
    """`ops.downsample2d`."""
    return upfirdn2d(x, f, **arguments("downsample2d", f, 1, down, padding, gain), flip_filter=flip_filter)


def conv2d_resample(
    x, w, f=None, *, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False
) -> tuple[Tensor, Linearization]:
    """`ops.conv2d_resample`, in the order of its parts: each has an adjoint that multiplies no zero either."""
    x, w, f = operands("conv2d_resample", x, w, f, groups, "w")
    up, down, pads, _ = geometry("conv2d_resample", x, w, f, up, down, padding)
    parts: list[Linearization] = []

    def fir(t: Tensor, f: Tensor | None, pads, **options) -> Tensor:
        if f is None and not options and not any(pads):
            return t
        t, part = upfirdn2d(t, f, padding=pads, flip_filter=flip_filter, **options)
        parts.append(part)
        return t

    def convolve(t: Tensor, stride=(1, 1)) -> Tensor:
        t, part = conv2d(t, w if flip_weight else w.flip([2, 3]), None, [stride[1], stride[0]], 0, 1, groups)
        parts.append(part)
        return t

    def transposed(t: Tensor) -> Tensor:
        """The whole true convolution of the samples between zeros."""
        weight = (w.flip([2, 3]) if flip_weight else w).unflatten(0, (groups, w.shape[0] // groups))
        weight = weight.transpose(1, 2).flatten(0, 1)
        t, part = conv_transpose2d(t, weight, None, [up[1], up[0]], 0, 0, groups)
        parts.append(part)
        return t

    if max(up) > 1:
        gain = up[0] * up[1]
        if w.shape[2] * w.shape[3] == 1:
            x = fir(convolve(x), f, pads, up=up, gain=gain)
        else:
            reach = [k - 1 for k in (w.shape[3], w.shape[2])]
            left = [(pads[2 * i] - reach[i], pads[2 * i + 1] + up[i] - 1 - reach[i]) for i in (0, 1)]
            x = fir(transposed(x), f, [*left[0], *left[1]], gain=gain)
        x = x if max(down) == 1 else fir(x, f, [0] * 4, down=down)
    elif max(down) == 1:
        x = convolve(fir(x, None, pads))
    elif w.shape[2] * w.shape[3] == 1:
        x = convolve(fir(x, f, pads, down=down))
    else:
        x = convolve(fir(x, f, pads), down)
    return x, chain(*parts)
