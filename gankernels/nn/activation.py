"""Activations as modules."""

import torch
from torch import Tensor

from gankernels import ops


class BiasAct(torch.nn.Module):
    """``gain * act(x + bias)`` in one pass, `ops.bias_act` as a module; without a bias unless `num_features` is given.

    Args:
        act, alpha: as in `ops.bias_act`.
        num_features: length of a bias along dimension 1, which starts at 0.
        gain: 1 unless given, as wherever a layer merely carries an activation.
    """

    def __init__(
        self,
        act: str = "linear",
        alpha: float | None = None,
        *,
        num_features: int | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.act, self.alpha, self.gain = act, alpha, gain
        bias = None if num_features is None else torch.zeros(num_features, device=device, dtype=dtype)
        self.register_parameter("bias", None if bias is None else torch.nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> the same."""
        return ops.bias_act(x, self.bias, act=self.act, alpha=self.alpha, gain=self.gain)

    def extra_repr(self) -> str:
        return f"{self.act}, alpha={self.alpha}, gain={self.gain}"


class Maxout(torch.nn.Module):
    """`ops.maxout` as a module: the largest of each `pieces` neighbouring channels."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C / pieces, ...]."""
        return ops.maxout(x, self.pieces)

    def check(self, x: Tensor) -> None:
        if x.shape[1] % self.pieces:
            raise ValueError(f"Maxout: x has {x.shape[1]} channels, expected a multiple of pieces = {self.pieces}")

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class PixelShuffleAct(torch.nn.Module):
    """`ops.pixel_shuffle_act` as a module: bias and activation, then `torch.nn.PixelShuffle`.

    Args:
        upscale_factor: r of [N, C r r, H, W] -> [N, C, H r, W r].
        act, alpha, clamp: as in `ops.bias_act`.
        num_features: C r r, the length of a bias, which starts at 0; None for none.
        gain: 1 unless given, as wherever a layer merely carries an activation.

    State-dict names: bias, where it is given.
    """

    def __init__(
        self,
        upscale_factor: int,
        act: str = "linear",
        alpha: float | None = None,
        *,
        num_features: int | None = None,
        gain: float = 1.0,
        clamp: float | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.upscale_factor, self.act, self.alpha, self.gain, self.clamp = upscale_factor, act, alpha, gain, clamp
        bias = None if num_features is None else torch.zeros(num_features, device=device, dtype=dtype)
        self.register_parameter("bias", None if bias is None else torch.nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C r r, H, W] -> [N, C, H r, W r]."""
        return ops.pixel_shuffle_act(
            x, self.upscale_factor, self.bias, act=self.act, alpha=self.alpha, gain=self.gain, clamp=self.clamp
        )

    def extra_repr(self) -> str:
        return f"{self.upscale_factor}, {self.act}, alpha={self.alpha}, gain={self.gain}"


class GradientReversal(torch.nn.Module):
    """`ops.gradient_reversal` as a module: x forward, backward its gradient times ``-lam``.

    `lam` may be set between calls, as schedules do.
    """

    def __init__(self, lam: float = 1.0) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return ops.gradient_reversal(x, self.lam)

    def extra_repr(self) -> str:
        return f"lam={self.lam}"


class FadeIn(torch.nn.Module):
    """`ops.fade_in` as a module: the crossfade of ProGAN to a new resolution, with the to-RGB of the lower.

    Args:
        in_channels, out_channels: of the 1x1 convolution of the lower resolution; both None for none.
        bias: of that convolution.
        alpha: share of the new resolution at first, 0 to 1. It is a buffer: `fade.alpha.fill_(0.3)`.

    State-dict names: alpha, and with the convolution weight and bias.
    Raises: ValueError where one of the numbers of channels is None and the other is not.

    Karras et al. 2018, arXiv 1710.10196.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        bias: bool = True,
        *,
        alpha: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if (in_channels is None) != (out_channels is None):
            raise ValueError(
                f"FadeIn: in_channels is {in_channels} and out_channels {out_channels}, expected both or neither"
            )
        self.weight = self.bias = None
        if in_channels is not None:
            layer = torch.nn.Conv2d(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)
            self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("alpha", torch.tensor(float(alpha), device=device, dtype=dtype))

    def forward(self, image: Tensor, lower: Tensor) -> Tensor:
        """image [N, C, r H, r W], lower [N, I, H, W] -> [N, C, r H, r W]."""
        return ops.fade_in(image, lower, self.alpha.to(image.dtype), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"alpha={float(self.alpha):g}" + ("" if self.weight is None else f", {tuple(self.weight.shape[1::-1])}")
