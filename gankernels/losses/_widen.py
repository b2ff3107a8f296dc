"""The dtype that losses are computed in."""

import torch
from torch import Tensor


def widen(t: Tensor) -> Tensor:
    """`t` in float32, or as it is where it is float64."""
    return t if t.dtype == torch.float64 else t.float()
