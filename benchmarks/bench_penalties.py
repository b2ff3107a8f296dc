"""An R1 step of DCGAN's discriminator at 64x64, batch 32: the penalty and its gradient in every parameter.

`python benchmarks/bench_penalties.py [train] [eval]` prints the table of docs/penalties.md: medians over interleaved
steps of CPU time on one thread, which other work on the machine disturbs little, and the peak of resident memory above
what the process held before the step (Linux; MALLOC_MMAP_THRESHOLD_=65536 gives freed memory back at once).
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

import pytest
import torch
from gankernels.models.dcgan import DCGANDiscriminator

import gankernels
from gankernels.losses import r1_penalty

BATCH = 32
PROVIDERS = ("reference", "double_backward", "adjoint", "tangent")


def step(provider: str, train: bool = True):
    """A call that does one step; "reference" is double backward on plain PyTorch."""
    torch.manual_seed(0)
    network = DCGANDiscriminator(64).train(train)
    real = torch.randn(BATCH, 3, 64, 64)
    form = "double_backward" if provider == "reference" else provider

    def run():
        with gankernels.backend("reference" if provider == "reference" else "cpu"):
            network.zero_grad(set_to_none=True)
            r1_penalty(network, real, 10.0, form=form).backward()

    return run


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_r1_step(benchmark, provider, train):
    if gankernels.why_not("cpu", "cpu"):
        pytest.skip(gankernels.why_not("cpu", "cpu"))
    run = step(provider, train)
    run()
    benchmark.group = f"R1 step, DCGAN 64x64, batch {BATCH}, {'train' if train else 'eval'}"
    benchmark(run)


def peak_bytes(run) -> int:
    """Most resident bytes while `run` runs, over those before."""
    run()
    pathlib.Path("/proc/self/clear_refs").write_text("5")

    def status(name):
        text = pathlib.Path("/proc/self/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) * 1024

    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def main(modes: list[str], rounds: int = 3) -> None:
    torch.set_num_threads(1)
    for mode in modes or ["train", "eval"]:
        runs = {p: step(p, mode == "train") for p in PROVIDERS}
        peaks = {p: peak_bytes(run) for p, run in runs.items()}
        times = {p: [] for p in PROVIDERS}
        for _ in range(rounds):
            for p, run in runs.items():
                start = time.process_time()
                run()
                times[p].append(time.process_time() - start)
        for p in PROVIDERS:
            ms, mib = statistics.median(times[p]) * 1e3, peaks[p] / 2**20
            print(f"| {mode} | {p} | {ms:.0f} ms | {mib:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
