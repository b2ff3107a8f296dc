"""StyleGAN3 (Karras et al. 2021, arXiv 2106.12423), configurations T and R.

Constructor arguments and state-dict names are those of the published networks. The discriminator is StyleGAN2's.
Configuration T is the default; R is ``conv_kernel=1, use_radial_filters=True`` with channel_base and channel_max
doubled. Images need not be square, see `Generator`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from gankernels.models import _network as base
from gankernels.models._lowpass import lowpass
from gankernels.models._mapping import MappingNetwork
from gankernels.models._network import Resolution
from gankernels.models._precision import Precision
from gankernels.models.stylegan2 import Discriminator
from torch import Tensor, nn

from gankernels import ops
from gankernels.nn import EqualizedLinear, whole

__all__ = ["Discriminator", "Generator", "MappingNetwork", "SynthesisInput", "SynthesisLayer", "SynthesisNetwork"]

FIRST_CUTOFF = 2.0
FIRST_STOPBAND = 2**2.1
LAST_STOPBAND = 2**0.3  # of the last cutoff
MARGIN = 10  # samples beyond the image on every side
FILTER_SIZE = 6  # taps for each factor of resampling
OUTPUT_SCALE = 0.25
MAGNITUDE_DECAY = 0.999


@dataclass(frozen=True)
class Signal:
    """What one layer leaves: sampling rate and band limit (per image's shorter side), size (H, W), channels."""

    rate: int
    cutoff: float
    half_width: float
    size: tuple[int, int]
    channels: int


def plan(size: tuple[int, int], image_channels: int, num_layers: int, num_critical: int, base: int, most: int):
    """[num_layers + 1] of `Signal`: cutoff and stopband grow exponentially up to the critically sampled last layers."""
    short = min(size)
    signals = []
    for i in range(num_layers + 1):
        e = min(i / (num_layers - num_critical), 1)
        cutoff = FIRST_CUTOFF * (short / 2 / FIRST_CUTOFF) ** e
        stopband = FIRST_STOPBAND * (short / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** e
        rate = 1 << math.ceil(math.log2(min(2 * stopband, short)))
        last = i >= num_layers - 1
        canvas = size if last else tuple(side * rate // short + 2 * MARGIN for side in size)
        channels = image_channels if i == num_layers else round(min(base / 2 / cutoff, most))
        signals.append(Signal(rate, cutoff, max(stopband, rate / 2) - cutoff, canvas, channels))
    return signals


class SynthesisInput(nn.Module):
    """Fourier features of an infinite plane, rotated and translated by w, then by the buffer `transform`.

    `transform` is the inverse of the transformation that the resulting image gets: [3, 3], the identity at first.
    """

    def __init__(self, w_dim: int, signal: Signal) -> None:
        super().__init__()
        self.signal = signal
        channels = signal.channels
        freqs = torch.randn(channels, 2)
        radii = freqs.square().sum(1, keepdim=True).sqrt()
        freqs /= radii * radii.square().exp().pow(0.25)  # uniform on the disc
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = EqualizedLinear(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        self.affine.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs * signal.cutoff)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        """[N, w_dim] -> [N, C, H, W]."""
        signal = self.signal
        matrix = self._inverse(self.affine(w)) @ self.transform  # [N, 3, 3]: where a point of the image comes from
        freqs = self.freqs @ matrix[:, :2, :2]  # [N, C, 2]
        phases = self.phases + (self.freqs @ matrix[:, :2, 2:]).squeeze(2)  # [N, C]
        over = freqs.norm(dim=2) - signal.cutoff
        amplitudes = (1 - over / (signal.rate / 2 - signal.cutoff)).clamp(0, 1)
        y, x = (self._axis(side) for side in signal.size)
        angle = freqs[:, None, None, :, 0] * x[:, None] + freqs[:, None, None, :, 1] * y[:, None, None]
        waves = torch.sin(2 * math.pi * (angle + phases[:, None, None])) * amplitudes[:, None, None]  # [N, H, W, C]
        waves = waves @ (self.weight / math.sqrt(signal.channels)).t()
        return waves.permute(0, 3, 1, 2)

    def _inverse(self, t: Tensor) -> Tensor:
        """Of a rotation followed by a translation, (cos, sin, tx, ty) of any length [N, 4]: [N, 3, 3]."""
        c, s, tx, ty = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(c), torch.ones_like(c)
        back = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).unflatten(1, (3, 3))
        shift = torch.stack([one, zero, -tx, zero, one, -ty, zero, zero, one], 1).unflatten(1, (3, 3))
        return back @ shift

    def _axis(self, side: int) -> Tensor:
        steps = torch.arange(side, device=self.freqs.device, dtype=self.freqs.dtype)
        return (steps + (0.5 - side / 2)) / self.signal.rate


class SynthesisLayer(nn.Module):
    """Modulated convolution, then bias and leaky ReLU at a higher sampling rate; toRGB: neither rate nor ReLU.

    State-dict names: affine.weight, affine.bias, weight, bias, magnitude_ema, up_filter, down_filter.
    """

    def __init__(self, w_dim, before: Signal, after: Signal, to_rgb, kernel, radial, clamp, precision) -> None:
        super().__init__()
        self.before, self.after, self.to_rgb, self.clamp, self.precision = before, after, to_rgb, clamp, precision
        kernel = 1 if to_rgb else kernel
        self.padding = kernel - 1
        self.affine = EqualizedLinear(w_dim, before.channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        rate = max(before.rate, after.rate) * (1 if to_rgb else 2)
        self.up, self.down = rate // before.rate, rate // after.rate
        up_taps, down_taps = (FILTER_SIZE * f if f > 1 and not to_rgb else 1 for f in (self.up, self.down))
        self.register_buffer("up_filter", lowpass(up_taps, before.cutoff, 2 * before.half_width, rate))
        self.register_buffer("down_filter", lowpass(down_taps, after.cutoff, 2 * after.half_width, rate, radial))
        self.margins = []  # x before, x after, y before, y after
        for axis in (1, 0):
            total = (after.size[axis] - 1) * self.down + 1 - (before.size[axis] + kernel - 1) * self.up
            total += up_taps + down_taps - 2
            low = (total + self.up) // 2
            self.margins += [low, total - low]

    def forward(self, x: Tensor, w: Tensor, force_fp32: bool, update_emas: bool, all_w: Tensor | None = None) -> Tensor:
        """x [N, I, H, W], w [N, w_dim] -> [N, O, H', W']; all_w is that of the whole batch where x is a share of it."""
        if update_emas:
            with torch.no_grad():
                power = x.detach().to(torch.promote_types(x.dtype, torch.float32)).square().mean()
                if whole.current() is not None:
                    power = whole.current().mean(power, "StyleGAN3's average of magnitudes")
                self.magnitude_ema.lerp_(power.to(self.magnitude_ema.dtype), 1 - MAGNITUDE_DECAY)
        x = self.precision(x, self.weight.dtype, force_fp32)
        weight, styles = self.weight, self.affine(w)
        normal = {"demodulate": not self.to_rgb, "prenormalize": not self.to_rgb}
        if self.to_rgb:
            styles = styles / math.sqrt(self.before.channels)
        elif all_w is not None:  # the operator would normalise by these samples' styles alone
            weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
            styles = styles * self.affine(all_w).square().mean().rsqrt()
            normal["prenormalize"] = False
        gain = self.magnitude_ema.rsqrt()
        x = ops.modulated_conv2d(x, weight.to(x.dtype), styles, padding=self.padding, input_gain=gain, **normal)
        shape = {"gain": 1.0, "slope": 1.0} if self.to_rgb else {"gain": math.sqrt(2), "slope": 0.2}
        resampling = {"up": self.up, "down": self.down, "padding": self.margins, "clamp": self.clamp}
        return ops.filtered_lrelu(
            x, self.up_filter, self.down_filter, self.bias.to(x.dtype), **resampling, **shape
        )  # fmt: skip


class SynthesisNetwork(nn.Module):
    """Intermediate latents to images: ``input``, layers ``L{i}_{size}_{channels}``; arguments as in `Generator`."""

    def __init__(self, w_dim, signals, num_critical, kernel, radial, num_half, clamp, precision) -> None:
        super().__init__()
        self.w_dim, self.num_ws, self.layers = w_dim, len(signals) + 1, []
        self.input = SynthesisInput(w_dim, signals[0])
        last = len(signals) - 1
        for i, after in enumerate(signals):
            before = signals[max(i - 1, 0)]
            disc = radial and i < last - num_critical
            half = Precision(after.rate << num_half > signals[-1].rate, *precision)
            layer = SynthesisLayer(w_dim, before, after, i == last, kernel, disc, clamp, half)
            self.layers.append(f"L{i}_{min(after.size)}_{after.channels}")
            self.add_module(self.layers[-1], layer)

    def forward(self, ws: Tensor, force_fp32: bool = False, update_emas: bool = False) -> Tensor:
        """ws [N, num_ws, w_dim] -> images [N, C, H, W], dtype of the parameters.

        force_fp32: no layer runs in 16 bits. update_emas: move the layers' averages of their input's magnitude.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"synthesis: ws has shape {list(ws.shape)}, expected [N, {self.num_ws}, {self.w_dim}]")
        dtype = self.input.weight.dtype
        first, *rest = ws.to(dtype).unbind(1)
        x = self.input(first)
        batch = whole.current()
        everything = [None] * len(rest) if batch is None else batch.ws.to(dtype).unbind(1)[1:]
        for name, w, all_w in zip(self.layers, rest, everything, strict=True):
            x = getattr(self, name)(x, w, force_fp32, update_emas, all_w)
        return x.to(dtype) * OUTPUT_SCALE


class Generator(base.Generator):
    """StyleGAN3's generator: ``mapping`` from z to w, ``synthesis`` from w to an image.

    Args:
        z_dim, c_dim, w_dim: numbers per latent, label (0: none) and intermediate latent.
        img_resolution: a power of two from 16, or [H, W] whose shorter side is one and whose longer side is a multiple
            of a sixteenth of it. Sampling rates are then those of the shorter side, and every canvas is longer.
        img_channels: any number.
        mapping_kwargs: further arguments of `MappingNetwork`, which has 2 layers unless given.
        channel_base, channel_max: a layer of cutoff f has ``min(channel_base / 2 / f, channel_max)`` channels.
        num_layers, num_critical: layers before toRGB, and how many of them are critically sampled.
        conv_kernel: 3 (T) or 1 (R). use_radial_filters: the other layers' downsampling filters are radial (R).
        num_fp16_res: how many of the highest sampling rates run in 16 bits; 0 for none.
        conv_clamp: bound of every layer's nonlinearity; None for none.
        half_dtype, half_devices, channels_last, latent: as in StyleGAN2's.

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
        num_layers: int = 14,
        num_critical: int = 2,
        conv_kernel: int = 3,
        use_radial_filters: bool = False,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256.0,
        half_dtype: str = "float16",
        half_devices: Sequence[str] = ("cuda",),
        channels_last: bool | None = None,
        latent: str = "normal",
    ) -> None:
        super().__init__(img_resolution, img_channels, z_dim, latent)
        short, long = sorted(self.size)
        if short < 16 or short & (short - 1) or long % (short // 16):
            raise ValueError(
                f"Generator: resolution {img_resolution}, expected a power of two from 16, or [H, W] whose shorter "
                "side is one and whose longer side is a multiple of a sixteenth of it"
            )
        if not 0 < num_critical < num_layers:
            raise ValueError(f"Generator: num_critical {num_critical}, expected 1 to num_layers - 1 = {num_layers - 1}")
        self.c_dim, self.w_dim = c_dim, w_dim
        signals = plan(self.size, img_channels, num_layers, num_critical, channel_base, channel_max)
        if min(signal.channels for signal in signals) < 1:
            raise ValueError(f"Generator: channel_base {channel_base} leaves a layer without channels, take {short}")
        precision = (half_dtype, half_devices, channels_last)
        filters = (conv_kernel, use_radial_filters)
        self.synthesis = SynthesisNetwork(w_dim, signals, num_critical, *filters, num_fp16_res, conv_clamp, precision)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **{"num_layers": 2, **(mapping_kwargs or {})})

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        force_fp32: bool = False,
    ) -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> images [N, C, H, W]; arguments of the mapping and of the synthesis."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, force_fp32, update_emas)
