"""Attention between the pixels of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gankernels import ops


class SelfAttention(nn.Module):
    """``x + gamma * attention(x)``, gamma learned from 0: the attention layer of SAGAN and, with `pool`, of BigGAN.

    Queries, keys and values are 1x1 convolutions of x, `ops.self_attention2d` is between them, and a last 1x1
    convolution leads back to x's channels.

    Args:
        in_channels: C of x, a multiple of 8.
        pool: max-pool keys and values by 2 (BigGAN); H and W even.
        value_channels: of the values; C / 2 unless given. SAGAN's paper has C, its published code C / 2.
        bias: of the four convolutions.
        second_order: as in `ops.self_attention2d`: False saves memory where no gradient penalty is taken.

    State-dict names: gamma, and weight (and bias) of query, key, value, out.
    Raises: ValueError for in_channels that are no multiple of 8, and with `pool` for an image of an odd side.

    Zhang et al. 2019, arXiv 1805.08318; Brock et al. 2019, arXiv 1809.11096.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        pool: bool = False,
        value_channels: int | None = None,
        bias: bool = False,
        second_order: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if in_channels % 8 or in_channels < 8:
            raise ValueError(f"SelfAttention: in_channels is {in_channels}, expected a multiple of 8")
        values = in_channels // 2 if value_channels is None else value_channels
        kind = {"bias": bias, "device": device, "dtype": dtype}
        self.in_channels, self.pool, self.second_order = in_channels, pool, second_order
        self.query = nn.Conv2d(in_channels, in_channels // 8, 1, **kind)
        self.key = nn.Conv2d(in_channels, in_channels // 8, 1, **kind)
        self.value = nn.Conv2d(in_channels, values, 1, **kind)
        self.out = nn.Conv2d(values, in_channels, 1, **kind)
        self.gamma = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    def check(self, x: Tensor) -> None:
        if self.pool and (x.shape[2] % 2 or x.shape[3] % 2):
            raise ValueError(f"SelfAttention: x has shape {list(x.shape)}, expected an even height and width to pool")

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        self.check(x)
        q, k, v = (self._project(layer, x) for layer in (self.query, self.key, self.value))
        if self.pool:
            k, v = F.max_pool2d(k, 2), F.max_pool2d(v, 2)
        attended = ops.self_attention2d(q, k, v, second_order=self.second_order)
        return x + self.gamma * self._project(self.out, attended)

    @staticmethod
    def _project(layer: nn.Conv2d, x: Tensor) -> Tensor:
        return ops.conv2d(x, layer.weight, layer.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, pool={self.pool}, second_order={self.second_order}"
