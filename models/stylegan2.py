"""StyleGAN2 (Karras et al. 2019, arXiv 1912.04958) and StyleGAN2-ADA's configurations of it (arXiv 2006.06676).

Constructor arguments and state-dict names are those of the published networks, so their parameters load. Images need
not be square: see `levels`; blocks are then named by the shorter side.
"""

import math
from collections.abc import Sequence

import torch
from gankernels.models import _network as base
from gankernels.models._mapping import MappingNetwork
from gankernels.models._network import Resolution, levels
from gankernels.models._precision import Precision
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import (
    EqualizedConv2d,
    EqualizedLinear,
    Linearization,
    MinibatchStdDev,
    StyledConv,
    linearize,
    linearized,
    register_linearization,
)

ARCHITECTURES = ("orig", "skip", "resnet")
FILTER = (1, 3, 3, 1)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: upsampling ``conv0``, ``conv1``, and ``torgb`` where the architecture has one.

    The first block has a learned `const` in place of ``conv0``. It takes `num_conv` entries of ws, and one more for
    ``torgb``, which is the next block's first.
    """

    def __init__(self, in_channels, out_channels, w_dim, size, image, architecture, conv_clamp, precision) -> None:
        super().__init__()
        self.in_channels, self.architecture, self.precision = in_channels, architecture, precision
        self.register_buffer("resample_filter", ops.setup_filter(FILTER))
        styled = {"style_dim": w_dim, "resolution": size, "resample_filter": FILTER}
        residual = architecture == "resnet" and in_channels > 0
        gain = math.sqrt(0.5) if residual else 1.0
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = StyledConv(in_channels, out_channels, 3, up=2, clamp=conv_clamp, **styled)
        scaled = None if conv_clamp is None else conv_clamp * gain
        self.conv1 = StyledConv(out_channels, out_channels, 3, gain=math.sqrt(2) * gain, clamp=scaled, **styled)
        self.num_conv = 1 if in_channels == 0 else 2
        self.torgb = self.skip = None
        if image:
            plain = {"demodulate": False, "noise": False, "act": "linear", "resample_filter": None}
            self.torgb = StyledConv(out_channels, image, 1, w_dim, clamp=conv_clamp, **plain)
        if residual:
            self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, up=2, gain=gain, clamp=scaled)

    def forward(self, x, image, ws, noise, force_fp32):
        """x [N, I, H, W] or None, image [N, C, H, W] or None, ws [N, num_conv + 1, w_dim] -> both, doubled."""
        full = self.conv1.weight.dtype
        if self.in_channels == 0:
            x = self.precision(self.const.unsqueeze(0).expand(ws.shape[0], -1, -1, -1), full, force_fp32)
            x = self.conv1(x, ws[:, 0], noise)
        else:
            x = self.precision(x, full, force_fp32)
            y = self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise)
            x = y if self.skip is None else self.skip(x) + y
        if image is not None:
            image = ops.upsample2d(image, self.resample_filter)
        if self.torgb is not None:
            rgb = self.torgb(x, ws[:, self.num_conv]).to(full)  # the sum of images has no 16-bit steps
            image = rgb if image is None else image + rgb
        return x, image


class SynthesisNetwork(nn.Module):
    """Intermediate latents to images: blocks ``b4``, ``b8``, ..., one a resolution; arguments as in `Generator`."""

    def __init__(self, w_dim, sizes, channels, image_channels, architecture, num_half, clamp, precision) -> None:
        super().__init__()
        self.w_dim, self.blocks, self.num_ws = w_dim, [f"b{r}" for r in sizes], 1
        before = 0
        for i, (r, size) in enumerate(sizes.items()):
            image = image_channels if architecture == "skip" or i == len(sizes) - 1 else 0
            half = Precision(i >= max(len(sizes) - num_half, 1), *precision)
            block = SynthesisBlock(before, channels[r], w_dim, size, image, architecture, clamp, half)
            self.add_module(f"b{r}", block)
            self.num_ws += block.num_conv
            before = channels[r]

    def forward(self, ws: Tensor, noise_mode: str = "random", force_fp32: bool = False) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, C, H, W], dtype of the parameters.

        noise_mode: "random" draws fresh noise, "const" takes the buffers' `noise_const`, "none" adds none.
        force_fp32: no block runs in 16 bits.
        Raises: ValueError for ws of another shape and another noise_mode.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"synthesis: ws has shape {list(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]")
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"synthesis: noise_mode is {noise_mode!r}, expected 'random', 'const' or 'none'")
        noise = None if noise_mode == "none" else noise_mode
        ws = ws.to(self.b4.const.dtype)
        x = image = None
        at = 0
        for name in self.blocks:
            block = getattr(self, name)
            x, image = block(x, image, ws[:, at : at + block.num_conv + 1], noise, force_fp32)
            at += block.num_conv
        return image


class Generator(base.Generator):
    """StyleGAN2's generator: ``mapping`` from z to w, ``synthesis`` from w to an image.

    Args:
        z_dim, c_dim, w_dim: numbers per latent, label (0: none) and intermediate latent.
        img_resolution: a power of two from 8, or [H, W], see `levels`.
        img_channels: any number.
        mapping_kwargs: further arguments of `MappingNetwork`.
        channel_base, channel_max: a layer at resolution r has ``min(channel_base // r, channel_max)`` channels.
        architecture: "skip", the published one: every block adds to the image; "resnet": residual blocks; "orig".
        num_fp16_res: how many of the highest resolutions run in 16 bits, the lowest never; 0 for none.
        conv_clamp: bound of every convolution's result; None for none.
        half_dtype: "float16" or "bfloat16"; half_devices: where the 16-bit blocks are 16 bits wide.
        channels_last: memory format of all blocks; None for that of the 16-bit blocks alone.
        latent: "normal" or "uniform".

    Raises: ValueError for a resolution, size or name that is none of these.
    """

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: Resolution = 256,
        img_channels: int = 3,
        mapping_kwargs: dict | None = None,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: str = "skip",
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256.0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
        latent: str = "normal",
    ) -> None:
        super().__init__(img_resolution, img_channels, z_dim, latent)
        sizes = levels(self, img_resolution)
        channels = base.channels(self, sizes, channel_base, channel_max)
        _check_architecture(self, architecture)
        self.c_dim, self.w_dim = c_dim, w_dim
        precision = (half_dtype, half_devices, channels_last)
        self.synthesis = SynthesisNetwork(
            w_dim, sizes, channels, img_channels, architecture, num_fp16_res, conv_clamp, precision
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        noise_mode: str = "random",
        force_fp32: bool = False,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> images [N, C, H, W]; arguments of the mapping and of the synthesis."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, noise_mode, force_fp32)


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution: ``fromrgb`` where the architecture has one, ``conv0``, downsampling ``conv1``."""

    def __init__(self, in_channels, out_channels, image_channels, first, architecture, clamp, precision) -> None:
        super().__init__()
        self.architecture, self.precision = architecture, precision
        self.register_buffer("resample_filter", ops.setup_filter(FILTER))
        self.fromrgb = self.skip = None
        if first or architecture == "skip":
            self.fromrgb = EqualizedConv2d(image_channels, in_channels, 1, act="lrelu", clamp=clamp)
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3, act="lrelu", clamp=clamp)
        gain = math.sqrt(0.5) if architecture == "resnet" else 1.0
        scaled = None if clamp is None else clamp * gain
        down = {"down": 2, "resample_filter": FILTER, "clamp": scaled}
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, act="lrelu", gain=math.sqrt(2) * gain, **down)
        if architecture == "resnet":
            self.skip = EqualizedConv2d(in_channels, out_channels, 1, bias=False, gain=gain, **down)

    def forward(self, x, image, force_fp32):
        """x [N, I, H, W] or None, image [N, C, H, W] or None -> both, halved; image None where no block needs it."""
        full = self.conv0.weight.dtype
        if x is not None:
            x = self.precision(x, full, force_fp32)
        if self.fromrgb is not None:
            rgb = self.fromrgb(self.precision(image, full, force_fp32))
            x = rgb if x is None else x + rgb
            image = ops.downsample2d(image, self.resample_filter) if self.architecture == "skip" else None
        y = self.conv1(self.conv0(x))
        return (y if self.skip is None else self.skip(x) + y), image


class DiscriminatorEpilogue(nn.Module):
    """The last block: minibatch standard deviation, ``conv``, dense ``fc`` and ``out``."""

    def __init__(self, channels, size, image_channels, outputs, architecture, clamp, group, deviations) -> None:
        super().__init__()
        self.fromrgb = None
        if architecture == "skip":
            self.fromrgb = EqualizedConv2d(image_channels, channels, 1, act="lrelu", clamp=clamp)
        self.mbstd = MinibatchStdDev(group, deviations) if deviations else nn.Identity()
        self.conv = EqualizedConv2d(channels + deviations, channels, 3, act="lrelu", clamp=clamp)
        self.fc = EqualizedLinear(channels * size[0] * size[1], channels, act="lrelu")
        self.out = EqualizedLinear(channels, outputs)

    def forward(self, x, image):
        """x [N, C, h, w], image [N, image channels, h, w] or None -> [N, outputs]."""
        x = x.to(self.conv.weight.dtype, memory_format=torch.contiguous_format)
        if self.fromrgb is not None:
            x = x + self.fromrgb(image)
        return self.out(self.fc(self.conv(self.mbstd(x)).flatten(1)))


class Discriminator(base.Discriminator):
    """StyleGAN2's discriminator; StyleGAN3's is the same.

    Args:
        c_dim, img_resolution, img_channels, channel_base, channel_max, num_fp16_res, conv_clamp, half_dtype,
            half_devices, channels_last: as in `Generator`.
        architecture: "resnet", the published one: residual blocks; "skip": every block sees the image; "orig".
        cmap_dim: numbers that a label is mapped to; unless given the channels at 4 x 4.
        mapping_kwargs: further arguments of the labels' `MappingNetwork`.
        mbstd_group_size, mbstd_num_channels: of `MinibatchStdDev`; 0 channels for none.
    """

    def __init__(
        self,
        c_dim: int = 0,
        img_resolution: Resolution = 256,
        img_channels: int = 3,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256.0,
        cmap_dim: int | None = None,
        mapping_kwargs: dict | None = None,
        *,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(img_resolution, img_channels)
        sizes = levels(self, img_resolution)
        channels = base.channels(self, sizes, channel_base, channel_max)
        _check_architecture(self, architecture)
        self.c_dim, self.architecture = c_dim, architecture
        self.cmap_dim = (cmap_dim or channels[4]) if c_dim else 0
        self.blocks = [f"b{r}" for r in reversed(sizes) if r > 4]
        for i, r in enumerate(r for r in reversed(sizes) if r > 4):
            half = Precision(i < num_fp16_res, half_dtype, half_devices, channels_last)
            block = DiscriminatorBlock(
                channels[r], channels[r // 2], img_channels, i == 0, architecture, conv_clamp, half
            )
            self.add_module(f"b{r}", block)
        if c_dim:
            labels = {"num_ws": None, "w_avg_beta": None, **(mapping_kwargs or {})}
            self.mapping = MappingNetwork(0, c_dim, self.cmap_dim, **labels)
        group = (mbstd_group_size, mbstd_num_channels)
        self.b4 = DiscriminatorEpilogue(
            channels[4], sizes[4], img_channels, self.cmap_dim or 1, architecture, conv_clamp, *group
        )

    def forward(self, images: Tensor, c: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        """[N, C, H, W] and labels [N, c_dim] -> logits [N, 1], dtype of the parameters."""
        labels = base.labels(self, c, self.c_dim, images.shape[0])
        x, image = None, self.checked(images).to(self.b4.out.weight.dtype)
        for name in self.blocks:
            x, image = getattr(self, name)(x, image, force_fp32)
        x = self.b4(x, image)
        return x if labels is None else (x * self.mapping(None, labels)).sum(1, keepdim=True) / math.sqrt(self.cmap_dim)


@register_linearization(Discriminator)
def _linearize(net: Discriminator, images: Tensor, c: Tensor | None) -> tuple[Tensor, Linearization]:
    labels = base.labels(net, c, net.c_dim, images.shape[0])
    full = net.b4.out.weight.dtype
    image = net.checked(images).to(full)
    to_image = linearized.cast(images, image)  # the derivatives of image and x in the images that came in
    x = to_x = None
    for name in net.blocks:
        block = getattr(net, name)
        x, to_x = base.converted(block.precision, x, to_x, full)
        if block.fromrgb is not None:
            rgb, to_rgb = base.converted(block.precision, image, to_image, full)
            rgb, part = linearize(block.fromrgb, rgb)
            to_rgb = linearized.chain(to_rgb, part)
            x, to_x = (rgb, to_rgb) if x is None else (x + rgb, linearized.total(to_x, to_rgb))
            if net.architecture == "skip":
                image, part = base.halved(image, block.resample_filter)
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
    y, tail = base.linearize_tail(net.b4, x)
    parts = [to_x, tail]
    if labels is not None:
        weights = net.mapping(None, labels) / math.sqrt(net.cmap_dim)
        y = (y * weights).sum(1, keepdim=True)
        sums = linearized.Linearization(lambda t: t.sum(1, keepdim=True), lambda g: g.expand_as(weights))
        parts += [linearized.scaled(weights), sums]
    return y, linearized.chain(*parts)


def _check_architecture(net, architecture: str) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{type(net).__name__}: architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}"
        )
