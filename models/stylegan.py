"""StyleGAN (Karras et al. 2018, arXiv 1812.04948): a mapping network, and a synthesis that styles every layer.

It grows as ProGAN does, published from 8x8: ``resolution`` and ``alpha`` of a call say how far; without them the whole
network runs, which is the static network of the same layers. Enlarging an image and blurring it with [1, 2, 1] is one
filter, [1, 3, 3, 1], and so is blurring before averaging down: the convolutions resample with it. Images need not be
square: see `levels`.
"""

from collections.abc import Sequence

import torch
from gankernels.models import _network as base
from gankernels.models import progan
from gankernels.models._mapping import MappingNetwork
from gankernels.models._network import Resolution, levels
from gankernels.models._precision import Precision
from gankernels.models.progan import faded, shrink
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import EqualizedConv2d, EqualizedLinear, whole

__all__ = ["Discriminator", "Generator", "MappingNetwork", "SynthesisBlock", "SynthesisNetwork", "shrink"]

BILINEAR = (1, 3, 3, 1)
NOISE = ("random", "const", "none")


class StyledEpilogue(nn.Module):
    """What follows each convolution: noise, bias, leaky ReLU, instance norm, style.

    State-dict names: noise_strength [C], noise_const [H, W], bias [C], affine.weight, affine.bias (scale, shift).
    """

    def __init__(self, channels: int, w_dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.register_buffer("noise_const", torch.randn(size))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.affine = EqualizedLinear(w_dim, 2 * channels)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        """x [N, C, H, W], w [N, w_dim] -> as x."""
        if noise_mode != "none":
            noise = self.noise_const
            if noise_mode == "random":
                noise = whole.normal(x.shape[0], 1, *x.shape[2:], dtype=noise.dtype, device=x.device)
            x = ops.add_noise(x, noise.to(x.dtype), self.noise_strength.to(x.dtype))
        x = ops.bias_act(x, self.bias.to(x.dtype), act="lrelu")
        scale, shift = self.affine(w).to(x.dtype).chunk(2, 1)
        return ops.adain(x, scale + 1, shift)


class SynthesisBlock(nn.Module):
    """Upsampling ``conv0`` (the first block: a learned `const`), ``style0``, ``conv1``, ``style1``; ``torgb``."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, size, image_channels: int, precision) -> None:
        super().__init__()
        self.precision = precision
        self.const = nn.Parameter(torch.ones(out_channels, *size)) if in_channels == 0 else None
        if in_channels:
            self.conv0 = EqualizedConv2d(in_channels, out_channels, 3, bias=False, up=2, resample_filter=BILINEAR)
        self.style0 = StyledEpilogue(out_channels, w_dim, size)
        self.conv1 = EqualizedConv2d(out_channels, out_channels, 3, bias=False, resample_filter=None)
        self.style1 = StyledEpilogue(out_channels, w_dim, size)
        self.torgb = EqualizedConv2d(out_channels, image_channels, 1, resample_filter=None)

    def forward(self, x: Tensor | None, ws: Tensor, noise_mode: str, force_fp32: bool) -> Tensor:
        """x [N, I, H, W] (None for the first block), ws [N, 2, w_dim] -> [N, O, 2 H, 2 W]."""
        if self.const is not None:
            x = self.const.unsqueeze(0).expand(ws.shape[0], -1, -1, -1)
        x = self.precision(x, self.torgb.weight.dtype, force_fp32)
        x = self.style0(x if self.const is not None else self.conv0(x), ws[:, 0], noise_mode)
        return self.style1(self.conv1(x), ws[:, 1], noise_mode)


class SynthesisNetwork(base.Growing, nn.Module):
    """Intermediate latents to images: blocks ``b4``, ``b8``, ..., one a resolution; arguments as in `Generator`."""

    def __init__(self, w_dim: int, sizes, channels, image_channels: int, num_half: int, precision) -> None:
        super().__init__()
        self.w_dim, self.sizes, self.num_ws = w_dim, sizes, 2 * len(sizes)
        for i, (r, size) in enumerate(sizes.items()):
            half = Precision(i >= max(len(sizes) - num_half, 1), *precision)
            block = SynthesisBlock(channels.get(r // 2, 0), channels[r], w_dim, size, image_channels, half)
            self.add_module(f"b{r}", block)

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        resolution: int | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        """ws [N, num_ws, w_dim], of which the first 2 a block are used -> images [N, C, *sizes[resolution]].

        noise_mode: "random" draws fresh noise, "const" takes the buffers' `noise_const`, "none" adds none.
        force_fp32: no block runs in 16 bits. resolution, alpha: as in `Generator`.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"synthesis: ws has shape {list(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]")
        if noise_mode not in NOISE:
            raise ValueError(f"synthesis: noise_mode is {noise_mode!r}, expected one of {', '.join(NOISE)}")
        resolution, alpha = self.stage(resolution, alpha)
        full = self.b4.torgb.weight.dtype
        ws = ws.to(full)
        x = lower = block = before = None
        for i, r in enumerate(base.stages(self, self.sizes, resolution, alpha)):
            lower, before, block = x, block, getattr(self, f"b{r}")
            x = block(x, ws[:, 2 * i : 2 * i + 2], noise_mode, force_fp32)
        return faded(block.torgb(x).to(full), lower, before and before.torgb, alpha)


class Generator(base.Growing, base.Generator):
    """StyleGAN's generator: ``mapping`` from z to w, ``synthesis`` from w to an image.

    Args:
        z_dim, c_dim, w_dim: numbers per latent, label (0: none) and intermediate latent.
        img_resolution: a power of two from 8, or [H, W], see `levels`.
        img_channels: any number.
        mapping_kwargs: further arguments of `MappingNetwork`.
        channel_base, channel_max: a layer at resolution r has ``min(channel_base // r, channel_max)`` channels.
        num_fp16_res: how many of the highest resolutions run in 16 bits; 0, the published number, for none.
        half_dtype, half_devices, channels_last, latent: as in StyleGAN2's.
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
        channel_base: int = 16384,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
        latent: str = "normal",
    ) -> None:
        super().__init__(img_resolution, img_channels, z_dim, latent)
        self.c_dim, self.w_dim, self.sizes = c_dim, w_dim, levels(self, img_resolution)
        channels = base.channels(self, self.sizes, channel_base, channel_max)
        precision = (half_dtype, half_devices, channels_last)
        self.synthesis = SynthesisNetwork(w_dim, self.sizes, channels, img_channels, num_fp16_res, precision)
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
        *,
        resolution: int | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> images [N, C, *sizes[resolution]]; see the mapping and the synthesis.

        resolution: what it has grown to, a key of `sizes`. alpha: share of its newest block, 0 to 1; the rest is the
        image of the block before, enlarged. None for what `grow` said last, at first all and 1. The paper truncates
        with psi 0.7, cutoff 8.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, noise_mode, force_fp32, resolution, alpha)

    def grow(self, resolution: int | None, alpha: float = 1.0) -> None:
        """As `Growing.grow`."""
        super().grow(resolution, alpha)
        self.synthesis.grow(resolution, alpha)


class Discriminator(progan.Discriminator):
    """ProGAN's, which blurs before it averages down; labels choose the logit."""

    def __init__(
        self,
        c_dim: int = 0,
        img_resolution: Resolution = 256,
        img_channels: int = 3,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
        mbstd_group_size: int | None = 4,
        resample_filter: Sequence[float] = BILINEAR,
        conditioning: str = "select",
        num_fp16_res: int = 0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(
            c_dim,
            img_resolution,
            img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            mbstd_group_size=mbstd_group_size,
            resample_filter=resample_filter,
            conditioning=conditioning,
            num_fp16_res=num_fp16_res,
            half_dtype=half_dtype,
            half_devices=half_devices,
            channels_last=channels_last,
        )
