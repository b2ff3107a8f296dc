"""A dense layer whose bias, activation and gain are one pass."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels import ops


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` followed by an activation: ``gain * act(x @ weight.T + bias)``.

    Parameters and state-dict names are PyTorch's. act and alpha are those of `ops.bias_act`; gain is 1 unless given,
    as wherever a layer merely carries an activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        act: str = "linear",
        alpha: float | None = None,
        gain: float = 1.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.act, self.alpha, self.gain = act, alpha, gain

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        y = F.linear(x, self.weight)
        return ops.bias_act(y, self.bias, dim=y.ndim - 1, act=self.act, alpha=self.alpha, gain=self.gain)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, act={self.act}"
