"""Kernel inception distance."""

from __future__ import annotations

import torch
from torch import Tensor


def kid(real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of two sets of features, unbiased, under the kernel (x.y / d + 1)^3.

    Args:
        real: features [N, d], any floating dtype; computed in float64.
        fake: features [M, d].
        subsets: the mean is taken over this many random subsets of either set.
        subset_size: their size; where a whole set is not larger, it is taken whole (and one subset suffices where both
            are).
        seed: of the choice of subsets.

    Returns:
        The distance; 0 in expectation for equal distributions, so single values may be slightly negative.

    Raises:
        ValueError: features of different lengths, or fewer than two of either.

    Binkowski et al. 2018, arXiv 1801.01401.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"real and fake must be [N >= 2, d] and [M >= 2, d], got {list(real.shape)} and {list(fake.shape)}"
        )
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
    real, fake = real.double(), fake.double()
    if max(len(real), len(fake)) <= subset_size:
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    values = [_mmd(_some(real, subset_size, generator), _some(fake, subset_size, generator)) for _ in range(subsets)]
    return torch.stack(values).mean().item()


def _some(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    if len(features) <= size:
        return features
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal_mean(k: Tensor) -> Tensor:
        n = len(k)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
