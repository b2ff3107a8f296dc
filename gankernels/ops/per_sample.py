"""sum_squares_per_sample and norm_per_sample: what gradient penalties are made of, each derivative a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, per_sample_op


def sum_squares_per_sample(x: Tensor) -> Tensor:
    """The sum of the squares of each sample: ``x.square().sum(all dimensions but the first)``.

    Args:
        x: [N, ...], usually [N, C, H, W]; float16, bfloat16, float32 or float64, in any layout. N may be 0.

    Returns: [N], float32 (float64 for float64): squares of 16-bit numbers overflow their own dtype. An empty sample
        sums to 0. Differentiable to any order, a kernel for each derivative; the gradient has the dtype and memory
        format of x. Autocast changes nothing.
    Raises: ValueError for an argument of the wrong kind, shape or dtype.
    """
    _check_samples("sum_squares_per_sample", x)
    return _backend.pick("sum_squares_per_sample", x)(x)


def norm_per_sample(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample, ``sum_squares_per_sample(x).sqrt()``, with derivatives at 0.

    Args:
        x: as in `sum_squares_per_sample`.

    Returns: [N], float32 (float64 for float64). Differentiable to any order: the first and second derivative are a
        kernel each (the second sums and then scales: two launches on a GPU), later ones are composed of such. Where a
        sample is 0 the norm has no derivative; there its gradient is 0, and so is every later derivative. Squares are
        taken in the result's dtype: numbers below 1e-23 or above 1e19 are 0 or infinite in float32.
    Raises: ValueError for an argument of the wrong kind, shape or dtype.
    """
    _check_samples("norm_per_sample", x)
    return _backend.pick("norm_per_sample", x)(x)


def _check_samples(op: str, x: Tensor) -> None:
    _check.floating(op, "x", x)
    if x.ndim < 1:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, ...]; unsqueeze(0) makes one sample of it")


def reference_sum_squares(x: Tensor) -> Tensor:
    squares = x.to(torch.promote_types(x.dtype, torch.float32)).square()
    return squares if x.ndim == 1 else squares.sum(list(range(1, x.ndim)))


def reference_norm(x: Tensor) -> Tensor:
    squares = reference_sum_squares(x)
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


for _name, _reference in (("sum_squares_per_sample", reference_sum_squares), ("norm_per_sample", reference_norm)):
    _backend.register(
        _name,
        reference=_reference,
        cpu=_backend.native(_name),
        cuda=_backend.native(_name),
        triton=per_sample_op.triton(_name),
    )
