"""A moving average of the generator's weights, from which samples are drawn."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A copy of a module whose parameters follow the original with a half-life counted in images.

    After `seen` images the half-life is min(half_life, rampup * seen), so that the first, random weights are soon
    forgotten; a step of n images moves the average by 1 - 0.5 ** (n / half-life). Buffers are copied. With half_life 0
    the average equals the original. (Karras et al. 2018, arXiv 1710.10196, with the ramp-up of arXiv 2006.06676.)

    Attributes:
        module: the averaged copy, in eval mode, without gradients.
    """

    def __init__(self, original: nn.Module, half_life: float, rampup: float) -> None:
        self.half_life, self.rampup = half_life, rampup
        self.module = copy.deepcopy(original).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, original: nn.Module, images: int, seen: int) -> None:
        """Follow the original after a step of `images` images, `seen` of them in all, this step's included."""
        half_life = min(self.half_life, self.rampup * seen)
        weight = 1 - 0.5 ** (images / half_life) if half_life > 0 else 1.0
        averages, values = list(self.module.parameters()), list(original.parameters())
        if averages:
            torch._foreach_lerp_(averages, values, weight)
        for mine, theirs in zip(self.module.buffers(), original.buffers(), strict=True):
            mine.copy_(theirs)
