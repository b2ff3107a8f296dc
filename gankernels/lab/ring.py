"""Mode collapse: eight Gaussians on a ring, the objective that loses some of them, and one that finds them all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.lab.toy import ToyRun, play

MODES, RADIUS, DEVIATION = 8, 2.0, 0.05
COUNT = 2000


def centres() -> Tensor:
    """[8, 2] on the ring."""
    angles = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def draw(count: int, generator: torch.Generator) -> Tensor:
    """[count, 2] points of the data."""
    which = torch.randint(MODES, (count,), generator=generator)
    return centres()[which] + DEVIATION * torch.randn(count, 2, generator=generator)


def modes_of(samples: Tensor) -> tuple[int, float]:
    """(modes that hold at least a quarter of their share, share of samples within 4 deviations of a mode)."""
    distance, nearest = torch.cdist(samples, centres()).min(1)
    good = distance < 4 * DEVIATION
    counts = torch.bincount(nearest[good], minlength=MODES)
    return int((counts >= len(samples) / MODES / 4).sum()), good.float().mean().item()


@dataclass(frozen=True)
class Ring:
    """One run: its title, and per moment the step, the samples, the modes found and the share of good samples."""

    title: str
    moments: list[tuple[int, Tensor, int, float]]


RUNS = {
    "gan-ns": ToyRun("gan-ns", lr=2e-3, betas=(0.5, 0.999)),
    "gan-ns with R1, gamma 0.1": ToyRun("gan-ns", r1=0.1, lr=2e-3, betas=(0.5, 0.999)),
    "wgan-gp, weight 1, 5 critic steps": ToyRun("wgan-gp", penalty=1.0, d_steps=5, betas=(0.0, 0.9)),
}


def compare(steps: int = 3000, seed: int = 1, runs: dict[str, ToyRun] | None = None) -> list[Ring]:
    """Train each; moments are spaced by doublings."""
    shown = {steps >> k for k in range(5)}
    results = []
    for title, run in (RUNS if runs is None else runs).items():
        total = steps // run.d_steps * (2 if run.d_steps > 1 else 1)
        when = {round(s * total / steps) for s in shown}
        moments = []
        for moment in play(run, draw, total, seed):
            if moment.step in when:
                samples = moment.samples(COUNT)
                moments.append((moment.step, samples, *modes_of(samples)))
        results.append(Ring(title, moments))
    return results


def write(runs: list[Ring]) -> str:
    """Markdown of the runs."""
    lines = ["| objective | step | modes found | near a mode |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {run.title} | {step} | {modes} of {MODES} | {good:.0%} |"
        for run in runs
        for step, _, modes, good in run.moments
    ]
    table = "\n".join(lines)
    return f"""# Mode collapse on a ring of Gaussians

Written by `gankernels lab --only ring --out docs`. Eight Gaussians of deviation {DEVIATION:g} on a ring of radius
{RADIUS:g}; dense networks. A mode counts as found when it holds a quarter of its share of {COUNT} samples within four
deviations of its centre; "near a mode" is the share of all samples that lie so.

{table}

![Samples](convergence-ring.png)
"""
