"""Whole networks: generation, and the parts of a training step, ours beside the same networks in plain PyTorch.

Plain PyTorch is the `reference` backend: the same modules, each operator composed of PyTorch's. "compiled" is
torch.compile of it, which has no second order (R1, path length).

`python benchmarks/bench_models.py [--seconds 20] [--only stylegan2] [--write docs/model-benchmarks.md]` prints the
table at the sizes of SIZES; pytest runs the same at 32x32.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from bench_tools import interleave, machine, peak_memory
from torch import Tensor

import gankernels
from gankernels import models
from gankernels.losses import objective, path_length, r1_penalty

PROVIDERS = ("cpu", "reference", "compiled")
STYLE = {"width": 128, "max_width": 512}  # channel_base 16384, at 128x128


@dataclass(frozen=True)
class Size:
    """A model at a size; `lazy`: the part of the steps in which R1 and path length are computed."""

    model: str
    resolution: int
    batch: int
    options: dict
    parts: tuple[str, ...]
    lazy: tuple[float, float] = (1, 1)


ALL = ("generation", "G", "D", "R1")
SIZES = (
    Size("dcgan", 64, 32, {}, ("generation", "G", "D")),
    Size("progan", 128, 4, STYLE, ALL),
    Size("stylegan", 128, 4, STYLE, ALL),
    Size("stylegan2", 128, 4, STYLE, (*ALL, "path length"), (1 / 16, 1 / 4)),
    Size("stylegan3", 128, 4, STYLE, ALL, (1 / 16, 1)),
)


def shrunk(size: Size) -> Size:
    """The same at 32x32 with few channels, for a round that shows that it runs."""
    return replace(size, resolution=32, batch=4, options={"width": 8, "max_width": 32})


class Networks:
    """The two networks of a size, and every part of a training step as a call without arguments."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        self.size = size
        self.g, self.d = models.build(size.model, resolution=size.resolution, channels=3, **size.options)
        self.z = self.g.sample_z(size.batch)
        self.real = torch.randn(size.batch, 3, size.resolution, size.resolution)
        self.loss = objective("gan-ns")
        self.mean_path = torch.zeros(1)

    def part(self, name: str, provider: str) -> Callable[[], object]:
        backend = "reference" if provider == "compiled" else provider
        g, d = (torch.compile(net) if provider == "compiled" else net for net in (self.g, self.d))
        do = getattr(self, {"generation": "_generation", "path length": "_path_length"}.get(name, f"_{name.lower()}"))

        def run():
            with gankernels.backend(backend):
                do(g, d)

        return run

    def _generation(self, g, d) -> None:
        with torch.no_grad():
            g(self.z)

    def _g(self, g, d) -> None:
        self.d.requires_grad_(False)
        self._gradients(self.loss.generator(d(g(self.z))), self.g)
        self.d.requires_grad_(True)

    def _d(self, g, d) -> None:
        with torch.no_grad():
            fake = g(self.z)
        self._gradients(self.loss.discriminator(d(self.real), d(fake)), self.d)

    def _r1(self, g, d) -> None:
        self._gradients(r1_penalty(self.d, self.real, 10.0), self.d)

    def _path_length(self, g, d) -> None:
        ws = self.g.mapping(self.z[: max(self.size.batch // 2, 1)], None)
        self._gradients(path_length(self.g.synthesis, ws, self.mean_path.clone(), 2.0), self.g)

    def _gradients(self, loss: Tensor, net: torch.nn.Module) -> None:
        torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True)


def cannot(provider: str, part: str) -> str | None:
    return "torch.compile has no second order" if provider == "compiled" and part in ("R1", "path length") else None


SMALL = [(shrunk(size), part, provider) for size in SIZES for part in size.parts for provider in PROVIDERS]


@pytest.mark.parametrize(("size", "part", "provider"), SMALL, ids=[f"{s.model}-{p}-{v}" for s, p, v in SMALL])
def test_models(benchmark, size, part, provider):
    reason = cannot(provider, part) or (provider == "cpu" and gankernels.why_not("cpu", "cpu"))
    if reason:
        pytest.skip(f"{provider}: {reason}")
    run = Networks(size).part(part, provider)
    run()
    benchmark.group = f"{size.model} {size.resolution} {part}"
    benchmark(run)


def rows(size: Size, seconds: float, with_compile: bool) -> list[str]:
    networks, lines, whole = Networks(size), [], {"cpu": 0.0, "reference": 0.0}
    label = f"{size.model} {size.resolution}x{size.resolution}, batch {size.batch}"
    for part in size.parts:
        wanted = [p for p in PROVIDERS if not cannot(p, part) and (with_compile or p != "compiled")]
        runs = {provider: networks.part(part, provider) for provider in wanted}
        times = interleave(runs, seconds, least=3)
        peaks = {provider: peak_memory(runs[provider]) / 2**20 for provider in ("cpu", "reference")}
        share = {"R1": size.lazy[0], "path length": size.lazy[1], "generation": 0}.get(part, 1)
        for provider in whole:
            whole[provider] += share * times[provider]
        lines.append(_row(f"{label}, {part}", times, peaks))
        print(lines[-1], flush=True)
    what = "G + D" + "".join(
        f" + {part} x {share:g}"
        for part, share in zip(("R1", "path length"), size.lazy, strict=True)
        if part in size.parts
    )
    lines.append(_row(f"{label}, training step: {what}", whole, {}))
    print(lines[-1], flush=True)
    return lines


def _row(label: str, times: dict[str, float], peaks: dict[str, float]) -> str:
    ours, plain = times["cpu"], times["reference"]
    compiled_ratio = f"{times['compiled'] / ours:.2f}" if "compiled" in times else ""
    memory = [f"{peaks[p]:.0f}" if peaks else "" for p in ("cpu", "reference")]
    cells = (label, f"{ours * 1e3:.1f}", f"{plain * 1e3:.1f}", f"{plain / ours:.2f}", compiled_ratio, *memory)
    return "| " + " | ".join(cells) + " |"


HEAD = """# Whole networks on the CPU beside plain PyTorch

Written by `python benchmarks/bench_models.py`; do not edit. {machine}

The same networks on backend `cpu` (ours) and on backend `reference` (each operator composed of PyTorch's own), and
torch.compile of the latter, which has no second order. Milliseconds, medians of calls in a new order each round; a
ratio above 1 says that ours is faster. Memory is the peak of tensors alive during the call, in MiB. float32.

| work | ours | plain | plain / ours | compiled / ours | MiB, ours | MiB, plain |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda s: s.split(","), default=[])
    parser.add_argument("--seconds", type=float, default=10.0, help="a provider's time at each part")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    parser.add_argument("--small", action="store_true", help="at 32x32 with few channels")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [s for s in SIZES if not options.only or s.model in options.only]
    lines = [row for s in chosen for row in rows(shrunk(s) if options.small else s, options.seconds, options.compile)]
    if options.write:
        options.write.write_text(HEAD.replace("{machine}", machine()) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
