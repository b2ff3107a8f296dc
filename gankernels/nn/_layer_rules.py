"""How the layers of `gankernels.nn`, and PyTorch's that networks here are built of, are linearized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels.nn import linearized
from gankernels.nn._linearize import Linearization, chain, linearize, register_linearization
from gankernels.nn.activation import BiasAct, GradientReversal, Maxout, PixelShuffleAct
from gankernels.nn.attention import SelfAttention
from gankernels.nn.conditional import SPADE, AdaIN, ConditionalBatchNorm2d
from gankernels.nn.conv import Conv2d, ConvTranspose2d
from gankernels.nn.linear import Linear
from gankernels.nn.norm import BatchNormAct2d, InstanceNormAct2d, MinibatchStdDev, PixelNorm
from gankernels.nn.resample import Blur, Downsample, FilteredLReLU, Upsample
from gankernels.nn.spectral import SpectralNorm
from gankernels.nn.style import EqualizedConv2d, EqualizedLinear, NoiseInjection
from gankernels.nn.whole import Dropout, current

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
    weight = m.weight.to(x.dtype) * m.weight_gain
    y, first = linearized.conv2d_resample(x, weight, m.resample_filter, **m.geometry())
    bias = None if m.bias is None else m.bias.to(y.dtype)
    y, second = linearized.bias_act(y, bias, act=m.act, alpha=m.alpha, gain=m.gain, clamp=m.clamp)
    return y, chain(first, second)


@register_linearization(BiasAct)
def _bias_act(m: BiasAct, x: Tensor) -> Result:
    return linearized.bias_act(x, m.bias, act=m.act, alpha=m.alpha, gain=m.gain)


@register_linearization(BatchNormAct2d)
def _batch_norm_act(m: BatchNormAct2d, x: Tensor) -> Result:
    _check_whole(m)
    args, kwargs = m.arguments(x)
    return linearized.batch_norm_act(*args, **kwargs)


@register_linearization(InstanceNormAct2d)
def _instance_norm_act(m: InstanceNormAct2d, x: Tensor) -> Result:
    return linearized.instance_norm_act(x, m.weight, m.bias, **m.options())


def _given(m: torch.nn.Module, c: Tensor | None) -> Tensor:
    if c is None:
        raise TypeError(f"linearize: {type(m).__name__} got no condition c, but the rule of its class needs one")
    return c


@register_linearization(AdaIN)
def _adain(m: AdaIN, x: Tensor, c: Tensor | None) -> Result:
    return linearized.adain(x, *m.numbers(_given(m, c)), m.eps)


@register_linearization(ConditionalBatchNorm2d)
def _conditional_batch_norm(m: ConditionalBatchNorm2d, x: Tensor, c: Tensor | None) -> Result:
    (x, _, _, *running), kwargs = m.arguments(x)
    return linearized.conditional_batch_norm(x, *m.numbers(_given(m, c)), *running, **kwargs)


@register_linearization(SPADE)
def _spade(m: SPADE, x: Tensor, c: Tensor | None) -> Result:
    (x, _, _, *running), kwargs = m.arguments(x)
    return linearized.spade_norm(x, *m.numbers(x, _given(m, c)), *running, **kwargs)


@register_linearization(MinibatchStdDev)
def _minibatch_stddev(m: MinibatchStdDev, x: Tensor) -> Result:
    _check_whole(m)
    return linearized.minibatch_stddev(x, m.group_size, m.num_channels)


def _check_whole(m: torch.nn.Module) -> None:
    if current() is not None:
        raise RuntimeError(
            f"linearize: {type(m).__name__} couples the samples of a batch that is split; use the form "
            "'double_backward', outside of torch.compile"
        )


@register_linearization(Maxout)
def _maxout(m: Maxout, x: Tensor) -> Result:
    m.check(x)
    return linearized.maxout(x, m.pieces)


@register_linearization(PixelNorm)
def _pixel_norm(m: PixelNorm, x: Tensor) -> Result:
    return linearized.pixel_norm(x, m.dim, m.eps)


@register_linearization(Blur)
def _blur(m: Blur, x: Tensor) -> Result:
    return linearized.filter2d(x, m.filter, padding=m.padding, gain=m.gain)


@register_linearization(Upsample)
def _upsample(m: Upsample, x: Tensor) -> Result:
    return linearized.upsample2d(x, m.filter, up=m.scale_factor, padding=m.padding, gain=m.gain)


@register_linearization(Downsample)
def _downsample(m: Downsample, x: Tensor) -> Result:
    return linearized.downsample2d(x, m.filter, down=m.scale_factor, padding=m.padding, gain=m.gain)


@register_linearization(FilteredLReLU)
def _filtered_lrelu(m: FilteredLReLU, x: Tensor) -> Result:
    bias = None if m.bias is None else m.bias.to(x.dtype)
    return linearized.filtered_lrelu(
        x, m.filter_up, m.filter_down, bias, up=m.up, down=m.down, padding=m.padding, gain=m.gain,
        slope=m.negative_slope, clamp=m.clamp,
    )  # fmt: skip


@register_linearization(PixelShuffleAct)
def _pixel_shuffle_act(m: PixelShuffleAct, x: Tensor) -> Result:
    options = {"act": m.act, "alpha": m.alpha, "gain": m.gain, "clamp": m.clamp}
    return linearized.pixel_shuffle_act(x, m.upscale_factor, m.bias, **options)


@register_linearization(GradientReversal)
def _gradient_reversal(m: GradientReversal, x: Tensor) -> Result:
    return linearized.gradient_reversal(x, m.lam)


@register_linearization(NoiseInjection)
def _noise_injection(m: NoiseInjection, x: Tensor) -> Result:
    return m(x), chain()


@register_linearization(SelfAttention)
def _self_attention(m: SelfAttention, x: Tensor) -> Result:
    m.check(x)
    images, parts = [], []
    for layer in (m.query, m.key, m.value):
        y, part = linearized.conv2d(x, layer.weight, layer.bias)
        if m.pool and layer is not m.query:
            y, pooling = linearized.max_pool2d(y, 2)
            part = chain(part, pooling)
        images.append(y)
        parts.append(part)
    y, tangent, adjoint = linearized.self_attention2d(*images)
    y, out = linearized.conv2d(y, m.out.weight, m.out.bias)

    def adjoint_of_all(g: Tensor) -> Tensor:
        grads = adjoint(out.adjoint(g * m.gamma))
        return g + sum(part.adjoint(each) for part, each in zip(parts, grads, strict=True))

    def tangent_of_all(t: Tensor) -> Tensor:
        return t + m.gamma * out.tangent(tangent(*(part.tangent(t) for part in parts)))

    return x + m.gamma * y, linearized.Linearization(tangent_of_all, adjoint_of_all)


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


@register_linearization(torch.nn.Dropout, Dropout)
def _dropout(m: torch.nn.Dropout, x: Tensor) -> Result:
    return linearized.dropout(x, m.p, m.training)


@register_linearization(torch.nn.MaxPool2d)
def _max_pool2d(m: torch.nn.MaxPool2d, x: Tensor) -> Result:
    return linearized.max_pool2d(x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)
