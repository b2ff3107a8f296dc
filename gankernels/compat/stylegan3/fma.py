"""``torch_utils.ops.fma``."""

import torch


def fma(a, b, c):
    """``a * b + c``, broadcast, in one pass; differentiable to any order."""
    return torch.addcmul(c, a, b)
