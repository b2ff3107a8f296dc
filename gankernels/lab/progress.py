"""The WGAN loss as a measure of progress: a critic's loss beside the true earth mover's distance over a training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.errors import need
from gankernels.lab.toy import ToyRun, play

COUNT = 200


@dataclass(frozen=True)
class Curve:
    """Per generator step: minus the discriminator's loss, and the exact W1 of samples to data; their rank correlation.

    The loss is averaged over the last ten steps; the first twenty, in which the critic finds its feet, are left out.
    """

    objective: str
    seed: int
    gain: Tensor
    distance: Tensor

    @property
    def agreement(self) -> float:
        """Spearman's rank correlation of the two."""
        return rank_correlation(self.gain, self.distance)


def two_bumps(count: int, generator: torch.Generator) -> Tensor:
    """[count, 2] of Gaussians of deviation 0.3 around (4, -2) and (4, 2), in equal parts."""
    sign = torch.randint(2, (count,), generator=generator) * 4.0 - 2
    return torch.stack([torch.full_like(sign, 4.0), sign], 1) + 0.3 * torch.randn(count, 2, generator=generator)


def wasserstein_of_samples(a: Tensor, b: Tensor) -> float:
    """W1 of two samples [n, d]: the mean distance of the cheapest pairing."""
    distance = torch.cdist(a, b).double().numpy()
    rows, columns = need("scipy.optimize", "lab").linear_sum_assignment(distance)
    return float(distance[rows, columns].mean())


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of [n] without ties."""
    ranks = torch.stack([one.argsort().argsort().double() for one in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def curve(objective: str, steps: int = 250, seed: int = 0) -> Curve:
    """Train one objective on `two_bumps`, five discriminator steps to one of the generator."""
    run = ToyRun(objective, d_steps=5, hidden=32, batch=64)
    data = two_bumps(COUNT, torch.Generator().manual_seed(11))
    gains, distances = [], []
    for moment in play(run, two_bumps, steps, seed):
        gains.append(-moment.d_loss)
        distances.append(wasserstein_of_samples(data, moment.samples(COUNT)))
    gain = torch.tensor(gains)[11:].unfold(0, 10, 1).mean(1)
    return Curve(objective, seed, gain, torch.tensor(distances)[20:])
