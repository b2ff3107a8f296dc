"""The operators together with their derivative in x: ``y, derivative = linearized.conv2d(x, weight, stride=2)``.

Each takes the arguments of its operator and returns ``(y, Linearization)``; parts for rules of
`gankernels.nn.register_linearization`. `chain` and `total` put derivatives together: of maps one after the
other, and of a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels import ops
from gankernels.nn._linearize import Linearization, chain, total
from gankernels.ops import _adjoints, upfirdn2d_op
from gankernels.ops.conv2d import _pair
from gankernels.ops.minibatch_stddev import EPS
from gankernels.ops.upfirdn2d import factors, filter_size, sides

__all__ = [
    "Linearization",
    "batch_norm_act",
    "bias_act",
    "cast",
    "chain",
    "conv2d",
    "conv_transpose2d",
    "dropout",
    "linear",
    "max_pool2d",
    "maxout",
    "minibatch_stddev",
    "reshaped",
    "scaled",
    "total",
    "upfirdn2d",
]


def linear(x: Tensor, weight: Tensor) -> tuple[Tensor, Linearization]:
    """``torch.nn.functional.linear`` without a bias: [..., I] -> [..., O]."""
    y = F.linear(x, weight)
    return y, Linearization(lambda t: F.linear(t, weight), lambda g: F.linear(g, weight.t()).to(x.dtype))


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


def bias_act(x, bias=None, *, dim=1, act="linear", alpha=None, gain=None, clamp=None) -> tuple[Tensor, Linearization]:
    """`ops.bias_act`; its Jacobian is diagonal, tangent and adjoint are one function."""
    options = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    y = ops.bias_act(x, bias, **options)

    def scale(g: Tensor) -> Tensor:
        return _adjoints.bias_act_adjoint(g, x, y, bias, **options)

    return y, Linearization(scale, scale)


def batch_norm_act(x, weight, bias, running_mean, running_var, **options) -> tuple[Tensor, Linearization]:
    """`ops.batch_norm_act`, its keyword arguments all given; running statistics move once."""
    y, mean, invstd = _adjoints.batch_norm_act_saved(x, weight, bias, running_mean, running_var, **options)
    training, act, alpha, gain = (options[k] for k in ("training", "act", "alpha", "gain"))

    def adjoint(g: Tensor) -> Tensor:
        kwargs = {"training": training, "act": act, "alpha": alpha, "gain": gain}
        return _adjoints.batch_norm_act_adjoint(g, x, weight, bias, mean, invstd, **kwargs)

    def tangent(t: Tensor) -> Tensor:
        plain = {"training": training, "act": "linear", "alpha": None, "gain": 1.0}
        t = _adjoints.batch_norm_act_adjoint(t, x, weight, bias, mean, invstd, **plain)  # symmetric
        if act == "linear":
            return t * gain
        running = (None, None) if training else (running_mean, running_var)
        u = ops.batch_norm_act(x, weight, bias, *running, **{**options, **plain})
        return _adjoints.bias_act_adjoint(t, u, y, None, dim=1, act=act, alpha=alpha, gain=gain)

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


def minibatch_stddev(x, group_size=4, num_channels=1) -> tuple[Tensor, Linearization]:
    """`ops.minibatch_stddev`; its derivative, of the few pixels that a discriminator ends in, is plain PyTorch."""
    y = ops.minibatch_stddev(x, group_size, num_channels)
    n, c, h, w = x.shape
    g = n if group_size is None else min(group_size, n)
    split = (g, n // max(g, 1), num_channels, c // num_channels, h, w)
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = x.to(wide).reshape(split)
    centred = parts - parts.mean(0)
    deviation = (centred.square().mean(0) + EPS).sqrt()

    def tangent(t: Tensor) -> Tensor:
        slope = (centred * t.to(wide).reshape(split)).mean(0) / deviation
        planes = slope.mean((2, 3, 4)).repeat(g, 1)[:, :, None, None].expand(-1, -1, h, w)
        return torch.cat([t, planes.to(t.dtype)], 1)

    def adjoint(gy: Tensor) -> Tensor:
        planes = gy[:, c:].to(wide).sum((2, 3)).reshape(g, -1, num_channels).sum(0) / (g * split[3] * h * w)
        through = centred / deviation * planes[:, :, None, None, None]
        return gy[:, :c] + through.reshape(x.shape).to(gy.dtype)

    return y, Linearization(tangent, adjoint)


def cast(x: Tensor, y: Tensor) -> Linearization:
    """The derivative of a change of dtype or layout from x to y."""
    return Linearization(lambda t: t.to(y.dtype), lambda g: g.to(x.dtype))


def scaled(factor: float | Tensor) -> Linearization:
    """The derivative of a product with a constant that broadcasts without adding to the shape."""
    return Linearization(lambda t: t * factor, lambda g: g * factor)


def maxout(x: Tensor, pieces: int) -> tuple[Tensor, Linearization]:
    """The largest of each `pieces` neighbouring channels: [N, C, ...] -> [N, C / pieces, ...]."""
    grouped = x.unflatten(1, (-1, pieces))
    y, at = grouped.max(2, keepdim=True)

    def adjoint(g: Tensor) -> Tensor:
        return torch.zeros_like(grouped).scatter(2, at, g.unsqueeze(2)).flatten(1, 2)

    def tangent(t: Tensor) -> Tensor:
        return t.unflatten(1, (-1, pieces)).gather(2, at).squeeze(2)

    return y.squeeze(2), Linearization(tangent, adjoint)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False) -> tuple[Tensor, Linearization]:
    """``torch.nn.functional.max_pool2d``; windows may overlap."""
    y, at = F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
    at = at.flatten(2)

    def adjoint(g: Tensor) -> Tensor:
        return torch.zeros_like(x).flatten(2).scatter_add(2, at, g.flatten(2)).view(x.shape)

    return y, Linearization(lambda t: t.flatten(2).gather(2, at).view(y.shape), adjoint)


def dropout(x: Tensor, p: float, training: bool) -> tuple[Tensor, Linearization]:
    """``torch.nn.functional.dropout``, with the random numbers that it would draw."""
    if not training or p == 0:
        return x, Linearization(lambda t: t, lambda g: g)
    mask = F.dropout(torch.ones_like(x), p)
    return x * mask, Linearization(lambda t: t * mask, lambda g: g * mask)


def reshaped(x: Tensor, y: Tensor) -> Linearization:
    """The derivative of a change of shape from that of x to that of y."""
    return Linearization(lambda t: t.reshape(y.shape), lambda g: g.reshape(x.shape))
