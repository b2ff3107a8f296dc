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
