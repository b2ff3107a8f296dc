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
    """One run: title, seed, and per moment the step, the samples, the modes found and the share of good samples."""

    title: str
    seed: int
    moments: list[tuple[int, Tensor, int, float]]


RUNS = {
    "gan-ns": ToyRun("gan-ns", lr=2e-3, betas=(0.5, 0.999)),
    "gan-ns with R1, gamma 0.1": ToyRun("gan-ns", r1=0.1, lr=2e-3, betas=(0.5, 0.999)),
    "wgan-gp, weight 1, 5 critic steps": ToyRun("wgan-gp", penalty=1.0, d_steps=5, betas=(0.0, 0.9)),
}


PARTS = (16, 8, 4, 2, 1)
"""Moments: a sixteenth of the way, an eighth, ..."""


def compare(
    steps: int = 2000, seeds: tuple[int, ...] = (0, 1, 2, 3), runs: dict[str, ToyRun] | None = None
) -> list[Ring]:
    """Train each with each seed, which draws weights, data and latents; critics of more steps for fewer of G."""
    results = []
    for title, run in (RUNS if runs is None else runs).items():
        total = steps // run.d_steps * (2 if run.d_steps > 1 else 1)
        when = {total // part for part in PARTS}
        for seed in seeds:
            moments = []
            for moment in play(run, draw, total, seed):
                if moment.step in when:
                    samples = moment.samples(COUNT)
                    moments.append((moment.step, samples, *modes_of(samples)))
            results.append(Ring(title, seed, moments))
    return results


def write(runs: list[Ring]) -> str:
    """Markdown of the runs."""
    head = ["objective", "seed", *(f"1/{part} of the way" for part in PARTS[:-1]), "end", "near a mode at the end"]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head))]
    lines += [
        "| " + " | ".join([run.title, str(run.seed), *(str(moment[2]) for moment in run.moments)]) + f" | {good:.0%} |"
        for run in runs
        for good in [run.moments[-1][3]]
    ]
    table, said = "\n".join(lines), "\n".join(f"- {title}: {summary(part)}" for title, part in by_title(runs).items())
    return f"""# Mode collapse on a ring of Gaussians

Written by `gankernels lab --only ring --out docs`. Eight Gaussians of deviation {DEVIATION:g} on a ring of radius
{RADIUS:g}; dense networks. Every objective runs with the same seeds, none of them chosen; learning rates, gamma and the
penalty's weight are set by hand, and others lose more modes or fewer. A mode counts as found when it holds a quarter
of its share of {COUNT} samples within four deviations of its centre; "near a mode" is the share of all samples that lie
so.

{said}

Modes found, of {MODES}:

{table}

The samples at the end, a column for each seed. Without a penalty the generator does not fall onto a single point here:
it leaves modes out, passes beside them or gives them next to nothing, and which ones differs from seed to seed.

![Samples](convergence-ring.png)
"""


def by_title(runs: list[Ring]) -> dict[str, list[Ring]]:
    """The runs of each title, in their order."""
    found: dict[str, list[Ring]] = {}
    for run in runs:
        found.setdefault(run.title, []).append(run)
    return found


def summary(runs: list[Ring]) -> str:
    """What the seeds of one objective came to."""
    modes = [run.moments[-1][2] for run in runs]
    whole, steps = sum(count == MODES for count in modes), runs[0].moments[-1][0]
    between = f"{min(modes)}" if min(modes) == max(modes) else f"{min(modes)} to {max(modes)}"
    return f"after {steps} steps {between} of {MODES} modes; all of them in {whole} of {len(runs)} runs"
