"""How the cost of an operator grows on the CPU: time and memory against resolution, batch, channels and taps.

    python benchmarks/growth.py [--seconds 0.3] [--write docs/cpu-growth.md]

Each row varies one of them with the others fixed. The exponent is of the cost between the last two points, 1 where
twice as much work takes twice the time; a point that costs over 1.25 times what its work says is named. With --write,
a plot goes beside the table (needs matplotlib).
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench_tools import interleave, machine, peak_memory, step
from torch import Tensor

from gankernels import ops

BASE = {"resolution": 64, "batch": 4, "channels": 64, "taps": 4}
VALUES = {
    "resolution": (16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32),
    "channels": (8, 16, 32, 64, 128, 256, 512),
    "taps": (2, 4, 6, 8, 12, 16, 24),
}
WORK = {"resolution": 2, "batch": 1, "channels": 1, "taps": 1}
"""Exponent of the work in each; channels count twice in a convolution, taps in time alone."""


@dataclass(frozen=True)
class Operator:
    name: str
    run: Callable[..., Tensor]
    axes: tuple[str, ...]
    convolves: bool = False

    def of_taps(self, taps: int) -> Callable[..., Tensor]:
        if "taps" not in self.axes:
            return self.run
        f = torch.ones(taps) / taps
        return lambda x: self.run(x, f)

    def inputs(self, resolution: int, batch: int, channels: int, taps: int) -> list[Tensor]:
        torch.manual_seed(0)
        x = torch.randn(batch, channels, resolution, resolution)
        if self.convolves:
            return [x, torch.randn(channels, channels, 3, 3), torch.randn(batch, channels)]
        if self.name.startswith("adain"):
            return [x, torch.randn(batch, channels), torch.randn(batch, channels)]
        return [x, torch.randn(channels)] if self.name == "bias_act" else [x]


def blurred(x: Tensor, f: Tensor) -> Tensor:
    return ops.upfirdn2d(x, f, padding=[f.numel() // 2, (f.numel() - 1) // 2] * 2)


def enlarged(x: Tensor, f: Tensor) -> Tensor:
    return ops.upsample2d(x, f)


def filtered(x: Tensor, f: Tensor) -> Tensor:
    n = f.numel()
    pads = 2 * n - 4  # of the two filters, up 2 and down 2
    return ops.filtered_lrelu(x, f, f, up=2, down=2, padding=[math.ceil(pads / 2), pads // 2] * 2)


IMAGES = ("resolution", "batch", "channels")
OPERATORS = (
    Operator("bias_act", lambda x, b: ops.bias_act(x, b, act="lrelu"), IMAGES),
    Operator("upfirdn2d blur", blurred, (*IMAGES, "taps")),
    Operator("upfirdn2d up 2", enlarged, (*IMAGES, "taps")),
    Operator("filtered_lrelu up 2 down 2", filtered, (*IMAGES, "taps")),
    Operator("adain", ops.adain, IMAGES),
    Operator("pixel_norm", ops.pixel_norm, IMAGES),
    Operator("modulated_conv2d", lambda x, w, s: ops.modulated_conv2d(x, w, s, padding=1), IMAGES, True),
)
LARGEST = 1 << 29  # bytes of x above which a point is left out


def points(operator: Operator, axis: str, seconds: float) -> list[tuple[int, float, float, float]]:
    """(value, milliseconds forward, milliseconds forward and backward, MiB of the latter) along an axis."""
    calls, peaks = {}, {}
    for value in VALUES[axis]:
        sizes = {**BASE, axis: value}
        if 4 * sizes["batch"] * sizes["channels"] * sizes["resolution"] ** 2 > LARGEST:
            continue
        inputs = operator.inputs(**sizes)
        for order in ("forward", "forward+backward"):
            calls[value, order] = step(operator.of_taps(sizes["taps"]), inputs, order)
        peaks[value] = peak_memory(calls[value, "forward+backward"]) / 2**20
    times = interleave(calls, seconds, least=5)
    return [(v, times[v, "forward"] * 1e3, times[v, "forward+backward"] * 1e3, peak) for v, peak in peaks.items()]


def exponent(operator: Operator, axis: str) -> int:
    """How the work grows along an axis."""
    return 2 if operator.convolves and axis == "channels" else WORK[axis]


def row(operator: Operator, axis: str, found: list[tuple[int, float, float, float]]) -> str:
    work = exponent(operator, axis)
    (v0, _, t0, m0), (v1, _, t1, m1) = found[-2:]
    grown = math.log(t1 / t0) / math.log(v1 / v0)
    memory = math.log(max(m1, 1e-9) / max(m0, 1e-9)) / math.log(v1 / v0)
    above = [
        f"{b[0]}: {ratio:.2f}"
        for a, b in itertools.pairwise(found)
        if (ratio := b[2] / a[2] / (b[0] / a[0]) ** work) > 1.25
    ]
    times = ", ".join(f"{v}: {a:.3g} / {b:.3g}" for v, a, b, _ in found)
    cells = (operator.name, axis, times, f"{grown:.2f} of {work}", f"{memory:.2f}", "; ".join(above) or "none")
    return "| " + " | ".join(cells) + " |"


def plot(results: dict[tuple[str, str], list[tuple[int, float, float, float]]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(VALUES), figsize=(16, 7), sharey="row")
    for column, axis in enumerate(VALUES):
        for (name, varied), found in results.items():
            if varied == axis:
                axes[0, column].loglog([p[0] for p in found], [p[2] for p in found], marker="o", ms=3, label=name)
                axes[1, column].loglog([p[0] for p in found], [p[3] for p in found], marker="o", ms=3, label=name)
        for line in axes[:, column]:
            line.set_xticks(VALUES[axis], [str(v) for v in VALUES[axis]])
            line.minorticks_off()
            line.grid(alpha=0.3)
        axes[1, column].set_xlabel(axis)
    axes[0, 0].set_ylabel("ms, forward and backward")
    axes[1, 0].set_ylabel("MiB at once")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


HEAD = """# How cost grows on the CPU

Written by `python benchmarks/growth.py`; do not edit. {machine}

From resolution {resolution}, batch {batch}, {channels} channels and {taps} taps one is varied at a time. Times in
milliseconds, forward / forward and backward. *Time grows*: the exponent of the latter between the last two points, of
the exponent of the arithmetic. *Memory grows*: the same for the most that tensors hold at once. *Above the work*:
points that cost over 1.25 times what the point before and the work say, with the factor: leaving a cache is such a
step.

![The same as a plot](cpu-growth.png)

| operator | varied | ms | time grows | memory grows | above the work |
|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="time of each point")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    results, lines = {}, []
    for operator in OPERATORS:
        for axis in operator.axes:
            results[operator.name, axis] = points(operator, axis, options.seconds)
            lines.append(row(operator, axis, results[operator.name, axis]))
            print(lines[-1], flush=True)
    if options.write:
        options.write.write_text(HEAD.format(machine=machine(), **BASE) + "\n".join(lines) + "\n")
        plot(results, options.write.with_suffix(".png"))


if __name__ == "__main__":
    main()
