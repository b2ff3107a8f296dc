"""The layers of StyleGAN2's networks: learning rates equalised at run time, weights modulated by a style."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gankernels import ops
from gankernels.nn import whole


class EqualizedLinear(nn.Linear):
    """`torch.nn.Linear` whose weight is stored N(0, 1) and scaled at run time, with an activation.

    Parameters and state-dict names are PyTorch's. The weight is stored N(0, 1) / lr_multiplier and multiplied by
    ``lr_multiplier / sqrt(in_features)``, the bias by `lr_multiplier`, so that every layer learns at one rate (Karras
    et al. 2017, arXiv 1710.10196).

    Args:
        bias_init: what the bias amounts to at first.
        act, alpha, gain: as in `ops.bias_act`, defaults included.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = None,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        self.lr_multiplier, self.bias_init = lr_multiplier, bias_init
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.act, self.alpha, self.gain = act, alpha, gain

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / self.lr_multiplier)
        if self.bias is not None:
            nn.init.constant_(self.bias, self.bias_init / self.lr_multiplier)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features], dtype of x."""
        y = F.linear(x, self.weight.to(x.dtype) * (self.lr_multiplier / math.sqrt(self.in_features)))
        bias = None if self.bias is None else self.bias.to(y.dtype) * self.lr_multiplier
        return ops.bias_act(y, bias, dim=y.ndim - 1, act=self.act, alpha=self.alpha, gain=self.gain)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, act={self.act}, lr_multiplier={self.lr_multiplier}"


class _Resampling(nn.Module):
    """What the convolutions below share: a weight of N(0, 1), a resampling filter, a padding that keeps the size."""

    def __init__(
        self, in_channels, out_channels, kernel_size, up, down, padding, resample_filter, device, dtype
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.up, self.down = up, down
        self.padding = kernel_size // 2 if padding is None else padding
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        size = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(size, device=device, dtype=dtype))
        taps = None if resample_filter is None else ops.setup_filter(resample_filter).to(device)
        self.register_buffer("resample_filter", taps)

    def geometry(self) -> dict:
        """How the convolution resamples, as the operators take it."""
        # The published networks turn the weight where they upsample.
        return {"up": self.up, "down": self.down, "padding": self.padding, "flip_weight": self.up == 1}

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding}"
        return text + "".join(f", {k}={getattr(self, k)}" for k in ("up", "down") if getattr(self, k) != 1)


class EqualizedConv2d(_Resampling):
    """A convolution with a run-time weight scale, up- or downsampling, bias and activation: `ops.conv2d_resample`.

    The weight is stored N(0, 1) and multiplied by ``1 / sqrt(in_channels * kernel_size ** 2)``.

    Args:
        kernel_size: an odd number.
        bias: a bias of [out_channels], 0 at first.
        up, down: integer factors.
        padding: kernel_size // 2 unless given, which keeps the size but for up and down.
        resample_filter: taps for `ops.setup_filter`, used where up or down is over 1.
        act, alpha, gain, clamp: as in `ops.bias_act`, defaults included.

    State-dict names: weight, bias, resample_filter.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        up: int = 1,
        down: int = 1,
        padding: int | None = None,
        resample_filter=(1, 3, 3, 1),
        act: str = "linear",
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, up, down, padding, resample_filter, device, dtype)
        self.act, self.alpha, self.gain, self.clamp = act, alpha, gain, clamp
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H up / down, W up / down], dtype of x."""
        weight = self.weight.to(x.dtype) * self.weight_gain
        y = ops.conv2d_resample(x, weight, self.resample_filter, **self.geometry())
        bias = None if self.bias is None else self.bias.to(y.dtype)
        return ops.bias_act(y, bias, act=self.act, alpha=self.alpha, gain=self.gain, clamp=self.clamp)


class ModulatedConv2d(_Resampling):
    """`ops.modulated_conv2d` and its weight; styles come from outside.

    Args:
        kernel_size, up, down, padding, resample_filter: as in `EqualizedConv2d`.
        demodulate: normalise each filter; where not, styles are multiplied by ``1 / sqrt(in_channels *
            kernel_size ** 2)`` instead.
        prenormalize: StyleGAN3's form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        up: int = 1,
        down: int = 1,
        padding: int | None = None,
        resample_filter=(1, 3, 3, 1),
        demodulate: bool = True,
        prenormalize: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, up, down, padding, resample_filter, device, dtype)
        self.demodulate, self.prenormalize = demodulate, prenormalize

    def _arguments(self, x: Tensor, styles: Tensor) -> tuple[tuple[Tensor, ...], dict]:
        if not self.demodulate:
            styles = styles * self.weight_gain
        options = {"demodulate": self.demodulate, "prenormalize": self.prenormalize, **self.geometry()}
        return (x, self.weight.to(x.dtype), styles), {**options, "resample_filter": self.resample_filter}

    def forward(
        self, x: Tensor, styles: Tensor, *, noise: Tensor | None = None, input_gain: Tensor | None = None
    ) -> Tensor:
        """x [N, I, H, W], styles [N, I] -> [N, O, H up / down, W up / down], dtype of x."""
        tensors, options = self._arguments(x, styles)
        return ops.modulated_conv2d(*tensors, noise=noise, input_gain=input_gain, **options)


class StyledConv(ModulatedConv2d):
    """A layer of StyleGAN2's generator: affine style, modulated convolution, noise, bias, activation.

    Args:
        style_dim: length of the latent w.
        in_channels, out_channels, kernel_size, up, padding, resample_filter, demodulate: as in `ModulatedConv2d`.
        resolution: of the result, H = W or (H, W): a buffer `noise_const` of constant noise.
        noise: add noise, times the learned scalar `noise_strength`, 0 at first.
        act, alpha, gain, clamp: as in `ops.bias_act`, defaults included.

    State-dict names: affine.weight, affine.bias, weight, bias, resample_filter, and with noise noise_strength, and
    with a resolution noise_const.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        *,
        up: int = 1,
        padding: int | None = None,
        resample_filter=(1, 3, 3, 1),
        demodulate: bool = True,
        resolution: int | tuple[int, int] | None = None,
        noise: bool = True,
        act: str = "lrelu",
        alpha: float | None = None,
        gain: float | None = None,
        clamp: float | None = None,
        device=None,
        dtype=None,
    ) -> None:
        kind = {"device": device, "dtype": dtype}
        shape = {"up": up, "padding": padding, "resample_filter": resample_filter, "demodulate": demodulate}
        super().__init__(in_channels, out_channels, kernel_size, **shape, **kind)
        self.act, self.alpha, self.gain, self.clamp = act, alpha, gain, clamp
        self.affine = EqualizedLinear(style_dim, in_channels, bias_init=1.0, **kind)
        self.bias = nn.Parameter(torch.zeros(out_channels, **kind))
        self.noise_strength = nn.Parameter(torch.zeros((), **kind)) if noise else None
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        constant = torch.randn(size, **kind) if noise and size is not None else None
        self.register_buffer("noise_const", constant)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | str | None = "random") -> Tensor:
        """x [N, I, H, W], w [N, style_dim] -> [N, O, H up, W up], dtype of x.

        noise: "random", fresh N(0, 1) for each sample; "const", the buffer; None; or a tensor that broadcasts to
        [N, 1, H up, W up]. Raises ValueError for another word, and for "const" in a layer without a resolution.
        """
        tensors, options = self._arguments(x, self.affine(w))
        noise = self._noise(x, noise)
        bias = self.bias.to(x.dtype)
        act = {"act": self.act, "alpha": self.alpha, "gain": self.gain, "clamp": self.clamp}
        return ops.modulated_conv2d_act(*tensors, bias, noise=noise, **options, **act)

    def _noise(self, x: Tensor, noise: Tensor | str | None) -> Tensor | None:
        if self.noise_strength is None or noise is None:
            return None
        if isinstance(noise, str):
            if noise not in ("random", "const"):
                raise ValueError(f"StyledConv: noise is {noise!r}, expected 'random', 'const', None or a tensor")
            if noise == "const" and self.noise_const is None:
                raise ValueError("StyledConv: noise is 'const', which needs a resolution when the layer is made")
            noise = self.noise_const if noise == "const" else self._fresh_noise(x)
        return (noise * self.noise_strength).to(x.dtype)

    def _fresh_noise(self, x: Tensor) -> Tensor:
        height, width = (s * self.up + 2 * self.padding - self.kernel_size + 1 for s in x.shape[2:])
        return whole.normal(x.shape[0], 1, height, width, device=x.device, dtype=self.noise_strength.dtype)


class NoiseInjection(nn.Module):
    """Add noise times a learned strength, 0 at first: one number, or one for each of `num_channels` (StyleGAN)."""

    def __init__(self, num_channels: int | None = None, *, device=None, dtype=None) -> None:
        super().__init__()
        shape = () if num_channels is None else (num_channels, 1, 1)
        self.strength = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> the same; noise broadcasts to [N, 1, H, W] and is fresh N(0, 1) where None."""
        if noise is None:
            noise = whole.normal(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        if self.strength.ndim:
            return x + noise.to(x.dtype) * self.strength.to(x.dtype)
        return ops.modulate_act(x, noise=(noise * self.strength).to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.strength.numel()}" if self.strength.ndim else ""
