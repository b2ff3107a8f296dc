"""Every benchmark case, its providers interleaved in one process: medians, ratios, a Markdown table.

    python benchmarks/table.py [--only bias_act,conv2d] [--seconds 1.0] [--threads 2] [--compile all|aims|none]
        [--write docs/cpu-benchmarks.md]

A row is one case at one order of derivative; a ratio is the provider's time over ours: above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterable

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import aims
import torch
from bench_tools import ORDERS, Case, calls, interleave, machine, peak_memory

HERE = pathlib.Path(__file__).parent


def copy_bandwidth() -> float:
    """GB/s read and written by a copy of 64 MiB."""
    a = torch.empty(1 << 24).normal_()
    b = torch.empty_like(a)
    times = interleave({"copy": lambda: b.copy_(a)}, 0.5)["copy"]
    return 2 * a.numel() * 4 / times / 1e9


def matmul_peak() -> float:
    """GFLOP/s of a float32 product of 1024 x 1024 matrices."""
    a, b = torch.randn(2, 1024, 1024).unbind()
    return 2 * 1024**3 / interleave({"mm": lambda: a @ b}, 0.5)["mm"] / 1e9


def cases(only: list[str]) -> list[Case]:
    found = []
    for path in sorted(HERE.glob("bench_*.py")):
        if path.stem == "bench_tools" or (only and path.stem.removeprefix("bench_") not in only):
            continue
        found += getattr(importlib.import_module(path.stem), "CASES", [])  # bench_penalties has steps of its own
    return found


def milliseconds(t: float) -> str:
    return f"{t * 1e3:.3f}" if t < 1e-3 else f"{t * 1e3:.2f}"


def compiles(case: Case, which: str) -> bool:
    return which == "all" or (which == "aims" and case.label in aims.SHARES)


def plain_of(names: Iterable[str]) -> list[str]:
    """The plain compositions: neither ours, nor what has a column of its own or (bench_keyed_draws) none."""
    return [n for n in names if n not in ("cpu", "unkeyed") and not n.startswith(("compile", "eager channels_last"))]


def contenders(runs: dict[str, Callable]) -> dict[str, Callable]:
    """Without the plain compositions that cannot be the best one: their second call took over 3 times another's."""
    took = {}
    for name in plain_of(runs):
        runs[name]()
        start = time.perf_counter()
        runs[name]()
        took[name] = time.perf_counter() - start
    return {name: run for name, run in runs.items() if took.get(name, 0.0) <= 3 * min(took.values(), default=0.0)}


def reached(percent: float, aim: float | None) -> str:
    text = f"{percent:.0f} %" + (f" ({aim} %)" if aim else "")
    return f"**{text}**" if aim and percent < aim else text


def grown(times: float, aim: float) -> str:
    text = f"{times:.1f} x ({aim:.1f} x)"
    return f"**{text}**" if times > aim else text


def rows(options) -> list[str]:
    bandwidth, peak = copy_bandwidth(), matmul_peak()
    lines = [
        f"Measured on {machine()}: copy {bandwidth:.1f} GB/s (read + written), matmul {peak:.0f} GFLOP/s.",
        "Medians of calls interleaved in a new order each round, in milliseconds, in a process that keeps freed",
        "memory (as a long run's heap does: else page faults would be most of what is seen). A ratio above 1 says",
        "that ours is faster; where both run the same oneDNN kernel it is 1 within the noise, about 2 %. Share is",
        "of the limit: the bytes that must move over the copy's bandwidth, or the flops over the product's rate,",
        "whichever takes longer, and of the order before it at the higher orders; in brackets what is aimed at",
        "(benchmarks/aims.py), bold where it is missed. MiB: the most that tensors held at once, ours / eager.",
        "",
        "| case | order | ours | eager | eager / ours | channels_last eager / ours | compiled / ours | share | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases(options.only):
        before = 0.0
        for order in ORDERS:
            runs = contenders(calls(case, order, compiles(case, options.compile)))
            if not runs:  # no derivative
                continue
            t = interleave(runs, options.seconds)
            others = [
                f"{min(times) / t['cpu']:.2f}" if times else ""
                for times in (
                    [v for k, v in t.items() if k.startswith("eager channels_last")],
                    [v for k, v in t.items() if k.startswith("compile")],
                )
            ]
            best = min(plain_of(t), key=t.__getitem__)
            plain = t[best]
            memory = " / ".join(f"{peak_memory(runs[k]) / 2**20:.3g}" for k in ("cpu", best))
            share = ""
            if order == "forward":
                floor = max(case.bytes / bandwidth / 1e9, case.flops / peak / 1e9)
                share = reached(100 * floor / t["cpu"], aims.SHARES.get(case.label)) if floor else ""
            elif aim := aims.growth(case.label, order):
                share = grown(t["cpu"] / before, aim)
            before = t["cpu"]
            lines.append(
                f"| {case.label} | {order} | {milliseconds(t['cpu'])} | {milliseconds(plain)} | {plain / t['cpu']:.2f} "
                f"| {others[0]} | {others[1]} | {share} | {memory} |"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda s: s.split(","), default=[])
    parser.add_argument("--seconds", type=float, default=0.5, help="a provider's time at each case and order")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", choices=["all", "aims", "none"], default="all", help="rows beside torch.compile")
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = rows(options)
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text("# Operators on the CPU beside plain PyTorch\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
