"""What the benchmarks share: providers of one operation, and the orders of derivative they are timed at."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

import gankernels
from gankernels import _backend
from gankernels._memory import keep_freed_memory

keep_freed_memory()  # for every provider alike
ORDERS = ("forward", "forward+backward", "second order")


@dataclass
class Case:
    """One operation at one shape: `make()` gives fresh inputs, `run(*inputs)` the output of a provider."""

    label: str
    make: Callable[[], list[Tensor]]
    providers: dict[str, Callable[..., Tensor]]
    bytes: int = 0  # that must move in forward
    flops: int = 0  # of forward

    def cannot(self, provider: str, device: torch.device, order: str) -> str | None:
        """Why a provider cannot be timed on a device, or None."""
        if provider.startswith("compile") and order == "second order":
            return "torch.compile has no second order"
        if provider not in _backend.NAMES:
            return None
        operator = self.label.split()[0]
        return gankernels.why_not(provider, device, operator if operator in _backend.operators() else None)


def ours(backend: str, f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if _backend.preferred(device_of(backend)) == backend:
        return f  # as a caller has it, who forces nothing

    def run(*inputs):
        with gankernels.backend(backend):
            return f(*inputs)

    return run


def device_of(provider: str) -> torch.device:
    gpu = torch.cuda.is_available() and provider not in ("cpu",)
    return torch.device("cuda" if gpu else "cpu")


def step(run: Callable[..., Tensor], inputs: list[Tensor], order: str) -> Callable[[], object]:
    """A call without arguments that does `order` once."""
    leaves = [t.detach().requires_grad_(order != "forward") for t in inputs]
    if order == "forward":

        def forward():
            with torch.no_grad():
                return run(*leaves)

        return forward
    with torch.no_grad():
        cotangent = torch.randn_like(run(*leaves))
    if order == "forward+backward":
        return lambda: torch.autograd.grad(run(*leaves), leaves, cotangent)
    cotangent.requires_grad_()

    def second():
        first = torch.autograd.grad(run(*leaves), leaves, cotangent, create_graph=True)
        total = sum(g.square().sum() for g in first)
        return torch.autograd.grad(total, [*leaves, cotangent], allow_unused=True)

    return second


def bench(benchmark, case: Case, provider: str, order: str) -> None:
    if reason := case.cannot(provider, device_of(provider), order):
        pytest.skip(f"{provider}: {reason}")
    inputs = [t.to(device_of(provider)) for t in case.make()]
    run = step(case.providers[provider], inputs, order)
    on_gpu = inputs[0].is_cuda

    def timed():
        run()
        if on_gpu:
            torch.cuda.synchronize()

    timed()
    benchmark.group = f"{case.label} {order}"
    benchmark(timed)
    if benchmark.stats and order == "forward":
        seconds = benchmark.stats.stats.median
        if case.bytes:
            benchmark.extra_info["GB/s"] = round(case.bytes / seconds / 1e9, 2)
        if case.flops:
            benchmark.extra_info["GFLOP/s"] = round(case.flops / seconds / 1e9, 2)


def interleave(
    calls: dict[str, Callable], seconds: float, device: torch.device | str = "cpu", least: int = 15
) -> dict[str, float]:
    """Median seconds of each, one call of each a round, in a new order each round, for `seconds` a call.

    At least `least` rounds.

    On a GPU between CUDA events, with the cache flushed before each call: the flush also outlasts what the host needs
    to enqueue the call, so that its launches are not timed.
    """
    on_gpu = torch.device(device).type == "cuda"
    times = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    for f in calls.values():
        f()
    flush = torch.empty(1 << 28, dtype=torch.uint8, device=device) if on_gpu else None
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[order[0]]) < least:
        shuffle(order)
        for name in order:
            times[name].append(_on_gpu(calls[name], flush) if on_gpu else _on_cpu(calls[name]))
    return {name: statistics.median(t) for name, t in times.items()}


def _on_cpu(f: Callable) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def _on_gpu(f: Callable, flush: Tensor) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(flush.device)
    for _ in range(4):  # some 0.4 ms
        flush.zero_()
    start.record()
    f()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


def calls(case: Case, order: str, with_compile: bool, device: torch.device | str = "cpu") -> dict[str, Callable]:
    """A call of every provider that runs on a device."""
    device = torch.device(device)
    return {
        provider: step(run, [t.to(device) for t in case.make()], order)
        for provider, run in case.providers.items()
        if not case.cannot(provider, device, order) and (with_compile or not provider.startswith("compile"))
    }


def measure(
    case: Case, order: str, seconds: float, with_compile: bool, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Median seconds of every provider that runs on a device."""
    return interleave(calls(case, order, with_compile, device), seconds, device)


def compiled(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`f` through torch.compile, compiled at its first call."""
    made = []

    def run(*inputs):
        if not made:
            torch._dynamo.reset()
            made.append(torch.compile(f, fullgraph=True, dynamic=False))
        return made[0](*inputs)

    return run


def providers(plain: Callable[..., Tensor], run: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
    """Plain PyTorch, eager and compiled, and ours on every backend with kernels."""
    kernels = {name: ours(name, run) for name in ("cpu", "cuda", "triton")}
    return {"eager": plain, "compiled": compiled(plain), **kernels}


def parametrize(cases: list[Case]):
    """Every case x provider x order as a pytest parameter set named case, provider, order."""
    sets = [
        pytest.param(case, provider, order, id=f"{case.label}-{provider}-{order}".replace(" ", "_"))
        for case in cases
        for order in ORDERS
        for provider in case.providers
    ]
    return pytest.mark.parametrize(("case", "provider", "order"), sets)


def peak_memory(f: Callable[[], object]) -> int:
    """Most bytes of CPU tensors alive at once that one call of `f` allocates, what it returns included.

    By the allocator's events: what a library takes for itself, as oneDNN its scratch memory, is not among them.
    """
    f()
    with _no_stderr(), torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        f()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@contextlib.contextmanager
def _no_stderr():
    """The profiler writes a line there whenever it starts and stops."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    from gankernels import _C

    return f"{model}, {torch.get_num_threads()} threads, {_C.cpu_capability()}, torch {torch.__version__}"
