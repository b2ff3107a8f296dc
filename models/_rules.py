"""How the discriminators of ProGAN, StyleGAN and StyleGAN2 are linearized."""

import math

import torch
from gankernels.models import _network as base
from gankernels.models import progan, stylegan2
from torch import Tensor

from gankernels import ops
from gankernels.nn import Linearization, linearize, linearized, register_linearization


@register_linearization(stylegan2.Discriminator)
def _stylegan2(net: stylegan2.Discriminator, images: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    labels = base.labels(net, c, net.c_dim, images.shape[0])
    full = net.b4.out.weight.dtype
    image = net.checked(images).to(full)
    to_image = linearized.cast(images, image)  # the derivatives of image and x in the images that came in
    x = to_x = None
    for name in net.blocks:
        block = getattr(net, name)
        x, to_x = _converted(block.precision, x, to_x, full)
        if block.fromrgb is not None:
            rgb, to_rgb = _converted(block.precision, image, to_image, full)
            rgb, part = linearize(block.fromrgb, rgb)
            to_rgb = linearized.chain(to_rgb, part)
            x, to_x = (rgb, to_rgb) if x is None else (x + rgb, linearized.total(to_x, to_rgb))
            if net.architecture == "skip":
                image, part = _halved(image, block.resample_filter)
                to_image = linearized.chain(to_image, part)
        y, first = linearize(block.conv0, x)
        y, second = linearize(block.conv1, y)
        through = linearized.chain(first, second)
        if block.skip is not None:
            beside, around = linearize(block.skip, x)
            y, through = beside + y, linearized.total(through, around)
        x, to_x = y, linearized.chain(to_x, through)
    wide = x.to(full, memory_format=torch.contiguous_format)
    to_x = linearized.chain(to_x, linearized.cast(x, wide))
    x = wide
    if net.b4.fromrgb is not None:
        rgb, part = linearize(net.b4.fromrgb, image)
        x, to_x = x + rgb, linearized.total(to_x, linearized.chain(to_image, part))
    y, tail = _linearize_tail(net.b4, x)
    parts = [to_x, tail]
    if labels is not None:
        weights = net.mapping(None, labels) / math.sqrt(net.cmap_dim)
        y = (y * weights).sum(1, keepdim=True)
        sums = linearized.Linearization(lambda t: t.sum(1, keepdim=True), lambda g: g.expand_as(weights))
        parts += [linearized.scaled(weights), sums]
    return y, linearized.chain(*parts)


@register_linearization(progan.Discriminator)
def _progan(net: progan.Discriminator, images: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    select = net.conditioning == "select"
    labels = base.labels(net, c, net.c_dim, images.shape[0], needed=select)
    _, alpha = net.stage(None, None)
    resolution = net.resolution_of(images)
    full = net.b4.out.weight.dtype
    x = image = images.to(full)
    to_x = to_image = linearized.cast(images, image)
    for r in reversed(base.stages(net, net.sizes, resolution, alpha)[1:]):
        block = getattr(net, f"b{r}")
        x, to_x = _converted(block.precision, x, to_x, full)
        for layer in ([block.fromrgb] if r == resolution else []) + [block.conv0, block.conv1]:
            x, part = linearize(layer, x)
            to_x = linearized.chain(to_x, part)
        if r == resolution and alpha != 1:
            lower, small = _halved(image, net.pool)
            lower, rgb = linearize(getattr(net, f"b{r // 2}").fromrgb, lower)
            to_lower = linearized.chain(to_image, small, rgb, linearized.cast(lower, x), linearized.scaled(1 - alpha))
            x = ops.fade_in(x, lower.to(x.dtype), alpha)
            to_x = linearized.total(linearized.chain(to_x, linearized.scaled(alpha)), to_lower)
    wide = x.to(full, memory_format=torch.contiguous_format)
    parts = [to_x, linearized.cast(x, wide)]
    x = wide
    if resolution == 4:
        x, rgb = linearize(net.b4.fromrgb, x)
        parts.append(rgb)
    y, tail = _linearize_tail(net.b4, x)
    weights = labels.to(y.dtype) if net.c_dim and select else torch.eye(1, y.shape[1], dtype=y.dtype, device=y.device)
    weights = weights.expand_as(y)  # without labels the first output alone
    sums = Linearization(lambda t: t.sum(1, keepdim=True), lambda g: g.expand_as(weights))
    logits = (y * weights).sum(1, keepdim=True)
    return logits, linearized.chain(*parts, tail, linearized.scaled(weights), sums)


def _converted(precision, x: Tensor | None, to_x: Linearization | None, full: torch.dtype):
    """`x` as a block takes it, and its derivative in the images, of which `to_x` is that of x."""
    if x is None:
        return None, None
    y = precision(x, full, False)
    return y, linearized.chain(to_x, linearized.cast(x, y))


def _halved(image: Tensor, f: Tensor) -> tuple[Tensor, Linearization]:
    """``ops.downsample2d(image, f)`` and its derivative."""
    taps = f.shape[-1]
    before, after = (taps - 1) // 2, (taps - 2) // 2
    return linearized.upfirdn2d(image, f, down=2, padding=[before, after, before, after])


def _linearize_tail(block: torch.nn.Module, x: Tensor) -> tuple[Tensor, Linearization]:
    """The rule of ``out(fc(conv(mbstd(x)).flatten(1)))``."""
    y, deviation = linearize(block.mbstd, x)
    y, conv = linearize(block.conv, y)
    flat = y.flatten(1)
    z, fc = linearize(block.fc, flat)
    z, out = linearize(block.out, z)
    return z, linearized.chain(deviation, conv, linearized.reshaped(y, flat), fc, out)
