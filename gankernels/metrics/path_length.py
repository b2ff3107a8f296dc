"""Perceptual path length: how much the picture changes for a small step of its latent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def path_length(
    show: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    interpolate: Callable[[Tensor, Tensor, Tensor], Tensor],
    weights: Tensor,
    *,
    epsilon: float = 1e-4,
    batch: int = 16,
    trim: float = 0.01,
) -> float:
    """Mean of distance(show(code(t)), show(code(t + epsilon))) / epsilon ** 2 on paths between pairs of codes.

    Args:
        show: codes to images; the same image for the same code.
        start, end: codes [N, ...] of either end of each path.
        distance: [n] of two batches of images.
        interpolate: (start, end, weights [n]) to codes [n, ...].
        weights: t [N], in [0, 1].
        trim: part of the results left out at either end, as in the published numbers.

    Raises:
        ValueError: ends and weights of different counts, or a trim that leaves nothing.

    Karras et al. 2018, arXiv 1812.04948.
    """
    if not len(start) == len(end) == len(weights) > 0 or not 0 <= trim < 0.5 or not epsilon > 0:
        raise ValueError(
            f"start, end and weights must be as many, got {len(start)}, {len(end)} and {len(weights)}; trim must be in "
            f"[0, 0.5) and epsilon over 0, got {trim} and {epsilon}"
        )
    values = []
    with torch.no_grad():
        for a, b, t in zip(start.split(batch), end.split(batch), weights.split(batch), strict=True):
            here, there = show(interpolate(a, b, t)), show(interpolate(a, b, t + epsilon))
            values.append(distance(here, there).double().cpu() / epsilon**2)
    ordered = torch.cat(values).sort().values
    cut = int(trim * len(ordered))
    return ordered[cut : len(ordered) - cut].mean().item()
