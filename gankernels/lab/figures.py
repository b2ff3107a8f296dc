"""The lab's pictures."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from gankernels.errors import need
from gankernels.lab import distances, dynamics
from gankernels.lab.games import DIRAC
from gankernels.lab.methods import METHODS, r1_method
from gankernels.lab.progress import Curve
from gankernels.lab.ring import DEVIATION, Ring, by_title, centres


def _figure(width: float, height: float):
    figure_class = need("matplotlib.figure", "lab").Figure  # no pyplot: it would pick a window system
    return figure_class(figsize=(width, height), layout="constrained")


def fields(path: Path) -> Path:
    """The Dirac-GAN under every method: vector field, and a trajectory of either kind."""
    figure = _figure(9, 9.6)
    start = torch.tensor([[1.0, 0.6]], dtype=torch.float64)
    for axes, method in zip(figure.subplots(3, 3).flat, METHODS, strict=True):
        reach = 1.5 if method.smooth else 4.5
        side = torch.linspace(-reach, reach, 18, dtype=torch.float64)
        grid = torch.cartesian_prod(side, side)
        arrows = dynamics.field(DIRAC, method, grid)
        axes.quiver(*grid.T.numpy(), *arrows.T.numpy(), color="0.65", angles="xy", width=0.005)
        paths = dynamics.trajectories(DIRAC, method, start, steps=300)
        kinds = (("simultaneous", "tab:red"), ("alternating", "tab:blue"))
        for line, (kind, colour) in zip(paths, kinds, strict=True):
            axes.plot(*line[:, 0].T.numpy(), color=colour, linewidth=0.9, label=kind)
        axes.plot(0, 0, "k+")
        axes.set(title=method.name, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    figure.supxlabel("theta")
    figure.supylabel("psi")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return _saved(figure, path)


def steps(path: Path, sizes: tuple[float, ...] = (0.5, 1.8, 2.2)) -> Path:
    """The Dirac-GAN at growing steps: unregularised and with R1, distance from the equilibrium over the updates."""
    figure = _figure(9, 3.4)
    start = torch.tensor([[0.05, 0.03]], dtype=torch.float64)
    both = ((METHODS[0], "unregularised"), (r1_method(), "R1, gamma 0.5: largest stable step 2"))
    for axes, (method, title) in zip(figure.subplots(1, 2), both, strict=True):
        for size, colour in zip(sizes, ("tab:green", "tab:orange", "tab:red"), strict=True):
            for line, style in zip(dynamics.trajectories(DIRAC, method, start, size, 100), ("-", ":"), strict=True):
                axes.plot(
                    line.norm(dim=2)[:, 0].numpy(),
                    style,
                    color=colour,
                    label=f"step {size:g}{' alternating' * (style == ':')}",
                )
        axes.set(title=title, xlabel="updates", ylabel="distance from the equilibrium", yscale="log", ylim=(1e-6, 1e2))
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _saved(figure, path)


def distances_and_progress(path: Path, curves: list[Curve]) -> Path:
    """JSD beside W1 over a shift, the transport plan and its dual potential, the best discriminator, progress."""
    figure = _figure(10, 9)
    (upper, plan_axes), (best, dual_axes), *lower = figure.subplots(3, 2)
    shifts = [float(s) for s in range(7)]
    upper.plot(shifts, [distances.worked_example(s).cost for s in shifts], "o-", label="W1")
    upper.plot(shifts, [distances.divergence_of_example(s) for s in shifts], "o", label="JSD")
    upper.axhline(math.log(2), color="0.6", linestyle=":", label="log 2")
    upper.set(title="the worked example, moved", xlabel="shift")
    upper.legend()
    example = distances.worked_example()
    shown = plan_axes.imshow(example.plan.numpy(), cmap="Blues")
    plan_axes.set(title="optimal plan at shift 3", xlabel="to", ylabel="from", xticks=range(3), yticks=range(3))
    plan_axes.set_xticklabels([3, 4, 5])
    figure.colorbar(shown, ax=plan_axes)
    dual_axes.plot(example.points.numpy(), example.potential.numpy(), "o-")
    dual_axes.set(title=f"1-Lipschitz potential: dual value {example.dual:.3f}", xlabel="x")
    x, p, q = distances.two_normals()
    found, _ = distances.optimal_discriminator(p, q)
    best.plot(x.numpy(), (p / p.max()).numpy(), label="p (scaled)")
    best.plot(x.numpy(), (q / p.max()).numpy(), label="q")
    best.plot(x.numpy(), found.numpy(), "k", label="D found")
    best.plot(x.numpy(), (p / (p + q)).numpy(), "r:", label="p / (p + q)")
    best.set_title("the best discriminator")
    best.legend(fontsize=7)
    for axes, curve in zip(lower[0], curves, strict=True):
        axes.plot(curve.distance.numpy(), color="0.4", label="exact W1")
        axes.set(title=f"{curve.objective}: rank correlation {curve.agreement:.2f}", xlabel="generator steps")
        twin = axes.twinx()
        twin.plot(curve.gain.numpy(), color="tab:purple", label="-loss of D")
        axes.legend(
            *[a + b for a, b in zip(axes.get_legend_handles_labels(), twin.get_legend_handles_labels(), strict=True)]
        )
    return _saved(figure, path)


def ring(path: Path, runs: list[Ring]) -> Path:
    """A row for each objective, a column for each seed: the samples at the end."""
    groups = by_title(runs)
    columns = max(map(len, groups.values()))
    figure = _figure(2.4 * columns, 2.5 * len(groups) + 0.3)
    rows = figure.subplots(len(groups), columns, sharex=True, sharey=True, squeeze=False)
    for row, (title, group) in zip(rows, groups.items(), strict=True):
        for axes, run in zip(row, group, strict=True):
            step, samples, modes, _ = run.moments[-1]
            axes.plot(*samples.T.numpy(), ".", markersize=1, alpha=0.4)
            axes.plot(*centres().T.numpy(), "r+", markersize=40 * DEVIATION + 6, alpha=0.6)
            axes.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
            axes.set_title(f"seed {run.seed}, step {step}: {modes} of 8", fontsize=8)
        row[0].set_ylabel(title, fontsize=8)
    return _saved(figure, path)


def _saved(figure, path: Path) -> Path:
    figure.savefig(path, dpi=80)
    return path
