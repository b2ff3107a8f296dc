"""The operators together with their derivative in x: ``y, derivative = linearized.conv2d(x, weight, stride=2)``.

Each takes the arguments of its operator and returns ``(y, Linearization)``; parts for rules of
`gankernels.nn.register_linearization`. `chain` and `total` put derivatives together: of maps one after the
other, and of a sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels import ops
from gankernels.nn._linearize import Linearization, chain, total
from gankernels.nn._linearized_convolutions import (
    conv2d,
    conv2d_resample,
    conv_transpose2d,
    downsample2d,
    filter2d,
    upfirdn2d,
    upsample2d,
)
from gankernels.nn._linearized_norms import (
    adain,
    batch_norm_act,
    conditional_batch_norm,
    instance_norm_act,
    spade_norm,
)
from gankernels.nn.whole import dropout_mask
from gankernels.ops import _adjoints
from gankernels.ops.upfirdn2d import factors

__all__ = [
    "Linearization",
    "adain",
    "batch_norm_act",
    "bias_act",
    "cast",
    "chain",
    "conditional_batch_norm",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "downsample2d",
    "dropout",
    "filter2d",
    "filtered_lrelu",
    "gradient_reversal",
    "instance_norm_act",
    "linear",
    "max_pool2d",
    "maxout",
    "minibatch_stddev",
    "pixel_norm",
    "pixel_shuffle_act",
    "reshaped",
    "scaled",
    "self_attention2d",
    "spade_norm",
    "total",
    "upfirdn2d",
    "upsample2d",
]


def linear(x: Tensor, weight: Tensor) -> tuple[Tensor, Linearization]:
    """``torch.nn.functional.linear`` without a bias: [..., I] -> [..., O]."""
    y = F.linear(x, weight)
    return y, Linearization(lambda t: F.linear(t, weight), lambda g: F.linear(g, weight.t()).to(x.dtype))


def bias_act(x, bias=None, *, dim=1, act="linear", alpha=None, gain=None, clamp=None) -> tuple[Tensor, Linearization]:
    """`ops.bias_act`; its Jacobian is diagonal, tangent and adjoint are one function."""
    options = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    y = ops.bias_act(x, bias, **options)

    def scale(g: Tensor) -> Tensor:
        return _adjoints.bias_act_adjoint(g, x, y, bias, **options)

    return y, Linearization(scale, scale)


def cast(x: Tensor, y: Tensor) -> Linearization:
    """The derivative of a change of dtype or layout from x to y."""
    return Linearization(lambda t: t.to(y.dtype), lambda g: g.to(x.dtype))


def scaled(factor: float | Tensor) -> Linearization:
    """The derivative of a product with a constant that broadcasts without adding to the shape."""
    return Linearization(lambda t: t * factor, lambda g: g * factor)


def maxout(x: Tensor, pieces: int) -> tuple[Tensor, Linearization]:
    """The largest of each `pieces` neighbouring channels: [N, C, ...] -> [N, C / pieces, ...]."""
    y, index = _adjoints.maxout_with_index(x, pieces)
    return y, Linearization(
        lambda t: _adjoints.maxout_tangent(t, index, pieces), lambda g: _adjoints.maxout_adjoint(g, index, pieces)
    )


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
    mask = dropout_mask(x, p)
    return x * mask, Linearization(lambda t: t * mask, lambda g: g * mask)


def reshaped(x: Tensor, y: Tensor) -> Linearization:
    """The derivative of a change of shape from that of x to that of y."""
    return Linearization(lambda t: t.reshape(y.shape), lambda g: g.reshape(x.shape))


def pixel_norm(x: Tensor, dim: int = 1, eps: float = 1e-8) -> tuple[Tensor, Linearization]:
    """`ops.pixel_norm`; its Jacobian is symmetric, tangent and adjoint are one function."""

    def scale(g: Tensor) -> Tensor:
        return _adjoints.pixel_norm_adjoint(g, x, dim, eps)

    return ops.pixel_norm(x, dim, eps), Linearization(scale, scale)


def minibatch_stddev(x: Tensor, group_size: int | None = 4, num_channels: int = 1) -> tuple[Tensor, Linearization]:
    """`ops.minibatch_stddev`: samples of a group depend on each other."""
    return ops.minibatch_stddev(x, group_size, num_channels), Linearization(
        lambda t: _adjoints.minibatch_stddev_tangent(t, x, group_size, num_channels),
        lambda g: _adjoints.minibatch_stddev_adjoint(g, x, group_size, num_channels),
    )


def filtered_lrelu(
    x, fu=None, fd=None, bias=None, *, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False,
) -> tuple[Tensor, Linearization]:  # fmt: skip
    """`ops.filtered_lrelu` taken apart: the upsampled image is kept, in the dtype of x."""
    ux, uy = factors("filtered_lrelu", "up", up)
    x, first = bias_act(x, bias)
    x, second = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=ux * uy)
    x, third = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    x, fourth = upfirdn2d(x, fd, down=down, flip_filter=flip_filter)
    return x, chain(first, second, third, fourth)


def pixel_shuffle_act(
    x, upscale_factor, bias=None, *, act="linear", alpha=None, gain=None, clamp=None
) -> tuple[Tensor, Linearization]:
    """`ops.pixel_shuffle_act`; the tangent is two kernels, all else is one."""
    options = {"act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    r, y = upscale_factor, ops.pixel_shuffle_act(x, upscale_factor, bias, **options)

    def adjoint(g: Tensor) -> Tensor:
        return _adjoints.pixel_shuffle_act_adjoint(g, x, y, r, bias, **options)

    def tangent(t: Tensor) -> Tensor:
        return F.pixel_shuffle(_adjoints.bias_act_adjoint(t, x, F.pixel_unshuffle(y, r), bias, dim=1, **options), r)

    return y, Linearization(tangent, adjoint)


def gradient_reversal(x: Tensor, lam: float = 1.0) -> tuple[Tensor, Linearization]:
    """`ops.gradient_reversal`: the derivative that it claims to have."""
    return ops.gradient_reversal(x, lam), Linearization(lambda t: t * -lam, lambda g: g * -lam)


def self_attention2d(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0
) -> tuple[Tensor, Callable[..., Tensor], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """`ops.self_attention2d`: (y, tangent of the tangents of q, k and v, adjoint, which gives those of all three)."""
    wide = torch.promote_types(q.dtype, torch.float32)

    def rows(t: Tensor) -> Tensor:  # [N, pixels, channels]
        return t.to(wide).flatten(2).mT

    def images(t: Tensor, like: Tensor) -> Tensor:
        return t.mT.unflatten(2, like.shape[2:]).to(q.dtype)

    queries, keys, values = rows(q), rows(k), rows(v)
    weights = (queries @ keys.mT * scale).softmax(2)

    def through_softmax(t: Tensor) -> Tensor:
        return weights * (t - (weights * t).sum(2, keepdim=True))

    def tangent(tq: Tensor, tk: Tensor, tv: Tensor) -> Tensor:
        change = through_softmax((rows(tq) @ keys.mT + queries @ rows(tk).mT) * scale)
        return images(change @ values + weights @ rows(tv), q)

    def adjoint(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = rows(g)
        scores = through_softmax(g @ values.mT) * scale
        return images(scores @ keys, q), images(scores.mT @ queries, k), images(weights.mT @ g, v)

    return images(weights @ values, q), tangent, adjoint
