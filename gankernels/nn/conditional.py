"""Normalisations whose scale and shift come from a style, a condition or a map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels import ops
from gankernels.nn.conv import Conv2d
from gankernels.nn.norm import BatchNormAct2d


class AdaIN(torch.nn.Module):
    """`ops.adain` whose scale and shift are a learned affine map of a style vector (arXiv 1703.06868, 1812.04948).

    Args:
        num_features: channels of x.
        style_features: length of the style vector.
        eps: added to the variance.

    `affine` is a `torch.nn.Linear` of style_features to 2 num_features, whose bias makes the scale 1 at first.
    """

    def __init__(self, num_features: int, style_features: int, eps: float = 1e-5, *, device=None, dtype=None) -> None:
        super().__init__()
        self.num_features, self.style_features, self.eps = num_features, style_features, eps
        self.affine = torch.nn.Linear(style_features, 2 * num_features, device=device, dtype=dtype)
        with torch.no_grad():
            self.affine.bias[:num_features] = 1
            self.affine.bias[num_features:] = 0

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """[N, C, H, W], [N, style_features] -> [N, C, H, W]."""
        return ops.adain(x, *self.numbers(style), self.eps)

    def numbers(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """scale and shift [N, C]."""
        scale, shift = self.affine(style).chunk(2, dim=1)
        return scale, shift

    def extra_repr(self) -> str:
        return f"{self.num_features}, style_features={self.style_features}, eps={self.eps}"


class ConditionalBatchNorm2d(BatchNormAct2d):
    """`ops.conditional_batch_norm`: scale ``1 + scale(condition)``, shift ``shift(condition)``, both linear (BigGAN).

    Args:
        num_features: channels of x.
        condition_features: length of the condition vector: a class embedding, latents, or both joined.

    The others, the buffers and their names are those of `BatchNormAct2d`; `scale` and `shift` are `torch.nn.Linear`
    without bias.
    """

    def __init__(
        self,
        num_features: int,
        condition_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        kwargs = {"device": device, "dtype": dtype}
        super().__init__(
            num_features, eps, momentum, False, track_running_stats, act=act, alpha=alpha, gain=gain, **kwargs
        )
        self.scale, self.shift = (
            torch.nn.Linear(condition_features, num_features, bias=False, **kwargs) for _ in range(2)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[N, C, H, W], [N, condition_features] -> [N, C, H, W]."""
        (x, _, _, *running), kwargs = self.arguments(x)
        return ops.conditional_batch_norm(x, *self.numbers(condition), *running, **kwargs)

    def numbers(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """scale and shift [N, C]."""
        return 1 + self.scale(condition), self.shift(condition)


class SPADE(BatchNormAct2d):
    """`ops.spade_norm` whose scale and shift are convolutions of a segmentation map (arXiv 1903.07291).

    Args:
        num_features: channels of x.
        map_channels: channels of the map.
        hidden_channels: of the convolution with relu that both share.
        kernel_size: of all three convolutions, odd.

    The others, the buffers and their names are those of `BatchNormAct2d`; `shared`, `scale` and `shift` are `Conv2d`.
    """

    def __init__(
        self,
        num_features: int,
        map_channels: int,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        if kernel_size % 2 != 1:
            raise ValueError(f"SPADE: kernel_size is {kernel_size}, expected an odd number")
        kwargs = {"device": device, "dtype": dtype}
        super().__init__(
            num_features, eps, momentum, False, track_running_stats, act=act, alpha=alpha, gain=gain, **kwargs
        )
        padding = kernel_size // 2
        self.shared = Conv2d(map_channels, hidden_channels, kernel_size, padding=padding, **kwargs)
        self.scale = Conv2d(hidden_channels, num_features, kernel_size, padding=padding, **kwargs)
        self.shift = Conv2d(hidden_channels, num_features, kernel_size, padding=padding, **kwargs)

    def forward(self, x: Tensor, segmentation: Tensor) -> Tensor:
        """[N, C, H, W], [N, map_channels, any size] -> [N, C, H, W]; the map is resized to x by nearest neighbour."""
        (x, _, _, *running), kwargs = self.arguments(x)
        return ops.spade_norm(x, *self.numbers(x, segmentation), *running, **kwargs)

    def numbers(self, x: Tensor, segmentation: Tensor) -> tuple[Tensor, Tensor]:
        """scale and shift, shaped as x."""
        if segmentation.shape[2:] != x.shape[2:]:
            segmentation = F.interpolate(segmentation, size=x.shape[2:], mode="nearest")
        hidden = F.relu(self.shared(segmentation))
        return self.scale(hidden), self.shift(hidden)
