"""FIR filters as modules: blur, up- and downsampling, and StyleGAN3's filtered activation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gankernels import ops


class _Filter(nn.Module):
    """What the layers below share: taps in a buffer `filter`, and the arguments of their operator."""

    def __init__(self, filter, padding, gain: float, device) -> None:
        super().__init__()
        self.padding, self.gain = padding, gain
        self.register_buffer("filter", None if filter is None else ops.setup_filter(filter).to(device))

    def _taps(self) -> str:
        return "None" if self.filter is None else str(list(self.filter.shape))


class Blur(_Filter):
    """`ops.filter2d` as a module: a FIR filter that keeps the size.

    Args:
        filter: taps for `ops.setup_filter`, which normalises their sum to 1; None for none.
        padding: added to what keeps the size: n, [x, y] or [x0, x1, y0, y1].
        gain: a factor.

    State-dict names: filter.
    """

    def __init__(
        self, filter: Sequence | Tensor | None = (1, 2, 1), *, padding: int | Sequence[int] = 0, gain=1.0, device=None
    ) -> None:
        super().__init__(filter, padding, gain, device)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, where padding is 0."""
        return ops.filter2d(x, self.filter, padding=self.padding, gain=self.gain)

    def extra_repr(self) -> str:
        return f"filter={self._taps()}, padding={self.padding}, gain={self.gain}"


class _Scaled(_Filter):
    def __init__(
        self,
        scale_factor: int | Sequence[int] = 2,
        filter: Sequence | Tensor | None = (1, 3, 3, 1),
        *,
        padding: int | Sequence[int] = 0,
        gain: float = 1.0,
        device=None,
    ) -> None:
        super().__init__(filter, padding, gain, device)
        self.scale_factor = scale_factor

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}, filter={self._taps()}, padding={self.padding}, gain={self.gain}"


class Upsample(_Scaled):
    """`ops.upsample2d` as a module: `scale_factor` times as large, through a FIR filter.

    Args:
        scale_factor: n or [x, y].
        filter, padding, gain: as in `Blur`; without a filter samples stand between zeros.

    State-dict names: filter.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H n, W n], where padding is 0."""
        return ops.upsample2d(x, self.filter, up=self.scale_factor, padding=self.padding, gain=self.gain)


class Downsample(_Scaled):
    """`ops.downsample2d` as a module: a FIR filter, then every `scale_factor`-th sample.

    Args:
        scale_factor: n or [x, y], by which the image gets smaller.
        filter, padding, gain: as in `Blur`.

    State-dict names: filter.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H / n, W / n], where padding is 0."""
        return ops.downsample2d(x, self.filter, down=self.scale_factor, padding=self.padding, gain=self.gain)


class FilteredLReLU(nn.Module):
    """`ops.filtered_lrelu` as a module: bias, upsampling, leaky ReLU and clamp, downsampling in one.

    Args:
        num_features: length of a bias, 0 at first; None for none.
        up, down: factors, n or [x, y].
        filter_up, filter_down: taps for `ops.setup_filter`; None for none.
        padding: of the upsampled image: n, [x, y] or [x0, x1, y0, y1].
        negative_slope, gain, clamp: of the activation.

    State-dict names: bias, filter_up, filter_down, where they are given.
    """

    def __init__(
        self,
        num_features: int | None = None,
        *,
        up: int | Sequence[int] = 1,
        down: int | Sequence[int] = 1,
        filter_up: Sequence | Tensor | None = None,
        filter_down: Sequence | Tensor | None = None,
        padding: int | Sequence[int] = 0,
        negative_slope: float = 0.2,
        gain: float = math.sqrt(2),
        clamp: float | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, padding
        self.negative_slope, self.gain, self.clamp = negative_slope, gain, clamp
        for name, taps in (("filter_up", filter_up), ("filter_down", filter_down)):
            self.register_buffer(name, None if taps is None else ops.setup_filter(taps).to(device))
        bias = None if num_features is None else nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H', W'], as `ops.filtered_lrelu` says."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return ops.filtered_lrelu(
            x, self.filter_up, self.filter_down, bias, up=self.up, down=self.down, padding=self.padding,
            gain=self.gain, slope=self.negative_slope, clamp=self.clamp,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"up={self.up}, down={self.down}, padding={self.padding}, negative_slope={self.negative_slope}, "
            f"gain={self.gain:.4g}, clamp={self.clamp}"
        )
