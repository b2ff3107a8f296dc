"""gradient_reversal: nothing forward and a scaled copy backward, so PyTorch's own kernel on every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check

_NAME = "gradient_reversal"


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, lam):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.lam = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return g * -ctx.lam, None


def gradient_reversal(x: Tensor, lam: float = 1.0) -> Tensor:
    """x forward; backward its gradient times ``-lam``.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        lam: the factor, any finite number.

    Returns: a view of x, so that forward moves no memory; every backend is the same. Differentiable in x to any order,
        each taking the gradient as it stands: the second derivative is that of ``-lam * g``.
    Raises: ValueError for an argument of the wrong kind or dtype.

    Ganin and Lempitsky 2015, arXiv 1409.7495.
    """
    _check.floating(_NAME, "x", x)
    lam = _check.finite(_NAME, "lam", lam)
    return _backend.pick(_NAME, x)(x, lam)


def _reverse(x, lam):
    if torch.compiler.is_exporting():  # which keeps a Function's forward alone; NaN for an infinity
        still = x.detach()
        return still - lam * (x - still)
    return _Reversal.apply(x, lam)


_backend.compounds.add(_NAME)
_backend.register(_NAME, reference=_reverse, cpu=_reverse, cuda=_reverse, triton=_reverse)
