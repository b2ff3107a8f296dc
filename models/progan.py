"""ProGAN (Karras et al. 2017, arXiv 1710.10196): a pair that grows, resolution by resolution, each faded in.

``resolution`` and ``alpha`` of a call say how far it has grown; without them the whole network runs, which is the
static network of the same layers. Nearest upsampling before a convolution, and average pooling after one, are the
convolution's own resampling with the filter [1, 1]. Images need not be square: see `levels`.
"""

import math
from collections.abc import Sequence

import torch
from gankernels.models import _network as base
from gankernels.models._network import Resolution, levels
from gankernels.models._precision import Precision
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import (
    BiasAct,
    EqualizedConv2d,
    EqualizedLinear,
    Linearization,
    MinibatchStdDev,
    PixelNorm,
    linearize,
    linearized,
    register_linearization,
)

BOX = (1, 1)


class GeneratorBlock(nn.Module):
    """Upsampling ``conv0`` (the first block: ``dense``) and ``conv1``, pixel norm after each; ``torgb``, linear 1x1."""

    def __init__(self, in_channels: int, out_channels: int, image_channels: int, latent, size, precision) -> None:
        super().__init__()
        self.precision, self.dense = precision, None
        if latent:
            self.dense = EqualizedLinear(latent, out_channels * size[0] * size[1], bias=False)
            self.start = (out_channels, *size)
            self.conv0 = BiasAct("lrelu", num_features=out_channels, gain=math.sqrt(2))
        else:
            self.conv0 = EqualizedConv2d(in_channels, out_channels, 3, up=2, resample_filter=BOX, act="lrelu")
        self.conv1 = EqualizedConv2d(out_channels, out_channels, 3, resample_filter=None, act="lrelu")
        self.norm = PixelNorm()
        self.torgb = EqualizedConv2d(out_channels, image_channels, 1, resample_filter=None)

    def forward(self, x: Tensor, force_fp32: bool) -> Tensor:
        """[N, I, H, W] (the first block: latents [N, L]) -> [N, O, 2 H, 2 W]."""
        full = self.torgb.weight.dtype
        if self.dense is not None:
            x = self.dense(x.to(full)).unflatten(1, self.start)
        x = self.precision(x, full, force_fp32)
        return self.norm(self.conv1(self.norm(self.conv0(x))))


class Generator(base.Growing, base.Generator):
    """Latents on the hypersphere, and labels appended to them, to images.

    Args:
        z_dim, c_dim: numbers per latent and label (0: none).
        img_resolution: a power of two from 8, or [H, W], see `levels`.
        img_channels: any number.
        channel_base, channel_max: a layer at resolution r has ``min(channel_base // r, channel_max)`` channels.
        num_fp16_res: how many of the highest resolutions run in 16 bits; 0, the published number, for none.
        half_dtype, half_devices, channels_last, latent: as in StyleGAN2's.

    The weights' run-time scale is He's for leaky layers, 1 for linear ones: the square root of 2 is the activation's
    gain here. State-dict names: b4.dense, b4.conv0.bias, b{r}.conv0, b{r}.conv1, b{r}.torgb.
    """

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        img_resolution: Resolution = 256,
        img_channels: int = 3,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
        latent: str = "normal",
    ) -> None:
        super().__init__(img_resolution, img_channels, z_dim, latent)
        self.c_dim, self.sizes = c_dim, levels(self, img_resolution)
        channels = base.channels(self, self.sizes, channel_base, channel_max)
        for i, (r, size) in enumerate(self.sizes.items()):
            half = Precision(i >= max(len(self.sizes) - num_fp16_res, 1), half_dtype, half_devices, channels_last)
            first = z_dim + c_dim if i == 0 else 0
            block = GeneratorBlock(channels.get(r // 2, 0), channels[r], img_channels, first, size, half)
            self.add_module(f"b{r}", block)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        resolution: int | None = None,
        alpha: float | None = None,
        force_fp32: bool = False,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> images [N, C, *sizes[resolution]], dtype of the parameters.

        resolution: what it has grown to, a key of `sizes`. alpha: share of its newest block, 0 to 1; the rest is the
        image of the block before, enlarged. None for what `grow` said last, at first all and 1.
        Raises: ValueError for latents or labels of another shape, another resolution or alpha.
        """
        resolution, alpha = self.stage(resolution, alpha)
        stages = base.stages(self, self.sizes, resolution, alpha)
        z = ops.pixel_norm(self.flat(z))
        labels = base.labels(self, c, self.c_dim, z.shape[0])
        x = z if labels is None else torch.cat([z, labels.to(z.dtype)], 1)
        lower = before = None
        for r in stages:
            lower, before, block = x, (getattr(self, f"b{r // 2}") if r > 4 else None), getattr(self, f"b{r}")
            x = block(x, force_fp32)
        full = block.torgb.weight.dtype
        return faded(block.torgb(x).to(full), lower, before and before.torgb, alpha)


def faded(image: Tensor, lower: Tensor, torgb: EqualizedConv2d | None, alpha: float) -> Tensor:
    """`image` of the newest block, and the share ``1 - alpha`` of the enlarged image that `torgb` makes of `lower`."""
    if alpha == 1 or torgb is None:
        return image
    weight = torgb.weight * torgb.weight_gain
    return ops.fade_in(image, lower.to(image.dtype), alpha, weight, torgb.bias)


class DiscriminatorBlock(nn.Module):
    """``fromrgb``, 1x1, for when the block is the first; ``conv0`` and downsampling ``conv1``."""

    def __init__(self, in_channels: int, out_channels: int, image_channels: int, resample_filter, precision) -> None:
        super().__init__()
        self.precision = precision
        self.fromrgb = EqualizedConv2d(image_channels, in_channels, 1, resample_filter=None, act="lrelu")
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3, resample_filter=None, act="lrelu")
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, down=2, resample_filter=resample_filter, act="lrelu")

    def forward(self, x: Tensor, first: bool, force_fp32: bool) -> Tensor:
        """[N, I, H, W], or the image where `first` -> [N, O, H / 2, W / 2]."""
        x = self.precision(x, self.conv0.weight.dtype, force_fp32)
        return self.conv1(self.conv0(self.fromrgb(x) if first else x))


class DiscriminatorEpilogue(nn.Module):
    """The last block: minibatch standard deviation, ``conv``, dense ``fc`` and ``out``."""

    def __init__(self, channels: int, size, image_channels: int, outputs: int, group: int | None) -> None:
        super().__init__()
        self.fromrgb = EqualizedConv2d(image_channels, channels, 1, resample_filter=None, act="lrelu")
        self.mbstd = MinibatchStdDev(group)
        self.conv = EqualizedConv2d(channels + 1, channels, 3, resample_filter=None, act="lrelu")
        self.fc = EqualizedLinear(channels * size[0] * size[1], channels, act="lrelu")
        self.out = EqualizedLinear(channels, outputs)

    def forward(self, x: Tensor, first: bool) -> Tensor:
        """[N, C, h, w], or the image where `first` -> [N, outputs]."""
        x = x.to(self.conv.weight.dtype, memory_format=torch.contiguous_format)
        return self.out(self.fc(self.conv(self.mbstd(self.fromrgb(x) if first else x)).flatten(1)))


class Discriminator(base.Growing, base.Discriminator):
    """Images of any stage to logits.

    Args:
        c_dim, img_resolution, img_channels, channel_base, channel_max, num_fp16_res, half_dtype, half_devices,
            channels_last: as in `Generator`.
        mbstd_group_size: samples whose deviation is taken together; None, as in the paper, for the whole batch.
        resample_filter: before downsampling; [1, 1] is the paper's average pooling.
        conditioning: what labels do. "acgan", the paper's: one logit, and `heads` classifies. "select": a logit for
            each class, of which the label takes its own (Mescheder et al. 2018, arXiv 1801.04406).
    """

    def __init__(
        self,
        c_dim: int = 0,
        img_resolution: Resolution = 256,
        img_channels: int = 3,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
        mbstd_group_size: int | None = None,
        resample_filter: Sequence[float] = BOX,
        conditioning: str = "acgan",
        num_fp16_res: int = 0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(img_resolution, img_channels)
        if conditioning not in ("acgan", "select"):
            raise ValueError(f"{type(self).__name__}: conditioning {conditioning!r}, expected acgan or select")
        self.c_dim, self.conditioning, self.sizes = c_dim, conditioning, levels(self, img_resolution)
        channels = base.channels(self, self.sizes, channel_base, channel_max)
        self.register_buffer("pool", ops.setup_filter(BOX), persistent=False)
        above = [r for r in reversed(self.sizes) if r > 4]
        for i, r in enumerate(above):
            half = Precision(i < num_fp16_res, half_dtype, half_devices, channels_last)
            block = DiscriminatorBlock(channels[r], channels[r // 2], img_channels, resample_filter, half)
            self.add_module(f"b{r}", block)
        outputs = 1 if not c_dim else c_dim + (conditioning == "acgan")
        self.b4 = DiscriminatorEpilogue(channels[4], self.sizes[4], img_channels, outputs, mbstd_group_size)

    def forward(
        self, images: Tensor, c: Tensor | None = None, *, alpha: float | None = None, force_fp32: bool = False
    ) -> Tensor:
        """Images [N, C, *sizes[r]] of any r, labels [N, c_dim] -> logits [N, 1].

        alpha: share of the newest block, that of the images' resolution; the rest is what the block below makes of the
        smaller image; None for what `grow` said last, at first 1. Labels are needed by "select" alone.
        """
        labels = base.labels(self, c, self.c_dim, images.shape[0], needed=self.conditioning == "select")
        y = self._outputs(images, alpha, force_fp32)
        if self.c_dim and self.conditioning == "select":
            return (y * labels.to(y.dtype)).sum(1, keepdim=True)
        return y[:, :1]

    def heads(self, images: Tensor, *, alpha: float | None = None, force_fp32: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [N, 1] and class logits [N, c_dim] of the "acgan" discriminator in one pass."""
        if not self.c_dim or self.conditioning != "acgan":
            raise ValueError(f"{type(self).__name__}: heads needs c_dim and conditioning 'acgan'")
        y = self._outputs(images, alpha, force_fp32)
        return y[:, :1], y[:, 1:]

    def resolution_of(self, images: Tensor) -> int:
        """The stage that images [N, C, H, W] are of; raises ValueError for those of none."""
        resolution = next((r for r, size in self.sizes.items() if size == tuple(images.shape[2:])), None)
        if images.ndim != 4 or images.shape[1] != self.channels or resolution is None:
            raise ValueError(
                f"{type(self).__name__}: images have shape {list(images.shape)}, expected [N, {self.channels}, H, W], "
                f"[H, W] one of {', '.join(str(list(size)) for size in self.sizes.values())}"
            )
        return resolution

    def _outputs(self, images: Tensor, alpha: float | None, force_fp32: bool) -> Tensor:
        _, alpha = self.stage(None, alpha)
        resolution = self.resolution_of(images)
        stages = base.stages(self, self.sizes, resolution, alpha)
        images = x = images.to(self.b4.out.weight.dtype)
        for r in reversed(stages[1:]):
            x = getattr(self, f"b{r}")(x, r == resolution, force_fp32)
            if r == resolution and alpha != 1:
                lower = getattr(self, f"b{r // 2}").fromrgb(ops.downsample2d(images, self.pool)).to(x.dtype)
                x = ops.fade_in(x, lower, alpha)
        return self.b4(x, resolution == 4)


def shrink(images: Tensor, size: tuple[int, int], alpha: float = 1.0) -> Tensor:
    """Real images [N, C, H, W] as a stage sees them: averaged down to `size`, a power of two below theirs.

    With alpha below 1 the share ``1 - alpha`` of them has lost the finest of that detail, as the generator's have.
    """
    factor = images.shape[2] // size[0]
    if factor > 1:
        images = nn.functional.avg_pool2d(images, factor)
    return images if alpha == 1 else ops.fade_in(images, nn.functional.avg_pool2d(images, 2), alpha)


@register_linearization(Discriminator)
def _linearize(net: Discriminator, images: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    select = net.conditioning == "select"
    labels = base.labels(net, c, net.c_dim, images.shape[0], needed=select)
    _, alpha = net.stage(None, None)
    resolution = net.resolution_of(images)
    full = net.b4.out.weight.dtype
    x = image = images.to(full)
    to_x = to_image = linearized.cast(images, image)
    for r in reversed(base.stages(net, net.sizes, resolution, alpha)[1:]):
        block = getattr(net, f"b{r}")
        x, to_x = base.converted(block.precision, x, to_x, full)
        for layer in ([block.fromrgb] if r == resolution else []) + [block.conv0, block.conv1]:
            x, part = linearize(layer, x)
            to_x = linearized.chain(to_x, part)
        if r == resolution and alpha != 1:
            lower, small = base.halved(image, net.pool)
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
    y, tail = base.linearize_tail(net.b4, x)
    weights = labels.to(y.dtype) if net.c_dim and select else torch.eye(1, y.shape[1], dtype=y.dtype, device=y.device)
    weights = weights.expand_as(y)  # without labels the first output alone
    sums = Linearization(lambda t: t.sum(1, keepdim=True), lambda g: g.expand_as(weights))
    logits = (y * weights).sum(1, keepdim=True)
    return logits, linearized.chain(*parts, tail, linearized.scaled(weights), sums)
