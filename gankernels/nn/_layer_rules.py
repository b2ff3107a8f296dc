"""How the layers of `gankernels.nn`, and PyTorch's that networks here are built of, are linearized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels.nn import linearized
from gankernels.nn._linearize import Linearization, chain, linearize, register_linearization
from gankernels.nn.activation import BiasAct, Maxout
from gankernels.nn.conv import Conv2d, ConvTranspose2d
from gankernels.nn.linear import Linear
from gankernels.nn.norm import BatchNormAct2d, MinibatchStdDev
from gankernels.nn.spectral import SpectralNorm
from gankernels.nn.style import EqualizedConv2d, EqualizedLinear
from gankernels.ops.conv2d_resample import geometry

Result = tuple[Tensor, Linearization]


@register_linearization(Conv2d)
def _conv2d(m: Conv2d, x: Tensor) -> Result:
    return linearized.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


@register_linearization(ConvTranspose2d)
def _conv_transpose2d(m: ConvTranspose2d, x: Tensor) -> Result:
    return linearized.conv_transpose2d(x, m.weight, m.bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation)


@register_linearization(Linear)
def _linear(m: Linear, x: Tensor) -> Result:
    y, first = linearized.linear(x, m.weight)
    y, second = linearized.bias_act(y, m.bias, dim=y.ndim - 1, act=m.act, alpha=m.alpha, gain=m.gain)
    return y, chain(first, second)


@register_linearization(EqualizedLinear)
def _equalized_linear(m: EqualizedLinear, x: Tensor) -> Result:
    y, first = linearized.linear(x, m.weight.to(x.dtype) * (m.lr_multiplier / math.sqrt(m.in_features)))
    bias = None if m.bias is None else m.bias.to(y.dtype) * m.lr_multiplier
    y, second = linearized.bias_act(y, bias, dim=y.ndim - 1, act=m.act, alpha=m.alpha, gain=m.gain)
    return y, chain(first, second)


@register_linearization(EqualizedConv2d)
def _equalized_conv2d(m: EqualizedConv2d, x: Tensor) -> Result:
    if m.up != 1:
        raise TypeError(
            f"linearize: EqualizedConv2d has a rule without upsampling only, and this one has up {m.up}; take the "
            "penalty outside torch.compile with form='double_backward'"
        )
    weight, filtered = m.weight.to(x.dtype) * m.weight_gain, chain()
    if m.down == 1:
        y, convolved = linearized.conv2d(x, weight, None, 1, m.padding)
    else:  # the filter first, then what is decimated anyway is not convolved
        _, _, pads, _ = geometry("conv2d_resample", x, weight, m.resample_filter, 1, m.down, m.padding)
        pointwise = m.kernel_size == 1
        steps = (m.down, 1) if pointwise else (1, m.down)
        y, filtered = linearized.upfirdn2d(x, m.resample_filter, down=steps[0], padding=pads)
        y, convolved = linearized.conv2d(y, weight, None, steps[1], 0)
    first = chain(filtered, convolved)
    bias = None if m.bias is None else m.bias.to(y.dtype)
    y, second = linearized.bias_act(y, bias, act=m.act, alpha=m.alpha, gain=m.gain, clamp=m.clamp)
    return y, chain(first, second)


@register_linearization(BiasAct)
def _bias_act(m: BiasAct, x: Tensor) -> Result:
    return linearized.bias_act(x, m.bias, act=m.act, alpha=m.alpha, gain=m.gain)


@register_linearization(BatchNormAct2d)
def _batch_norm_act(m: BatchNormAct2d, x: Tensor) -> Result:
    args, kwargs = m.arguments(x)
    return linearized.batch_norm_act(*args, **kwargs)


@register_linearization(MinibatchStdDev)
def _minibatch_stddev(m: MinibatchStdDev, x: Tensor) -> Result:
    return linearized.minibatch_stddev(x, m.group_size, m.num_channels)


@register_linearization(Maxout)
def _maxout(m: Maxout, x: Tensor) -> Result:
    m.check(x)
    return linearized.maxout(x, m.pieces)


@register_linearization(torch.nn.Sequential)
def _sequential(m: torch.nn.Sequential, x: Tensor) -> Result:
    parts = []
    for layer in m:
        x, part = linearize(layer, x)
        parts.append(part)
    return x, chain(*parts)


@register_linearization(SpectralNorm)
def _spectral_norm(m: SpectralNorm, x: Tensor, c: Tensor | None) -> Result:
    with m.normalized():
        return linearize(m.module, x, c)


@register_linearization(torch.nn.Identity)
def _identity(m: torch.nn.Identity, x: Tensor) -> Result:
    return x, chain()


@register_linearization(torch.nn.Flatten, torch.nn.Unflatten)
def _shape(m: torch.nn.Flatten | torch.nn.Unflatten, x: Tensor) -> Result:
    y = m(x)
    return y, linearized.reshaped(x, y)


@register_linearization(torch.nn.Dropout)
def _dropout(m: torch.nn.Dropout, x: Tensor) -> Result:
    return linearized.dropout(x, m.p, m.training)


@register_linearization(torch.nn.MaxPool2d)
def _max_pool2d(m: torch.nn.MaxPool2d, x: Tensor) -> Result:
    return linearized.max_pool2d(x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)
