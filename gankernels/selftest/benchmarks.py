"""The operators' benchmark cases (those of the checkout, which a wheel carries along) beside plain PyTorch."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from gankernels import _backend
from gankernels._shipped import shipped


@dataclass(frozen=True)
class Timing:
    """One case at one order of derivative: medians in milliseconds by provider, or what went wrong."""

    operator: str
    case: str
    order: str
    device: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """For each backend of ours, how many times longer plain PyTorch and torch.compile take."""
        theirs = {k: t for k, t in self.milliseconds.items() if k not in _backend.NAMES}
        plain = [t for k, t in theirs.items() if not k.startswith("compile")]
        through_compile = [t for k, t in theirs.items() if k.startswith("compile")]
        found = {}
        for name in _backend.NAMES:
            if name in self.milliseconds:
                ours = self.milliseconds[name]
                found[name] = {"PyTorch": min(plain) / ours} if plain else {}
                if through_compile:
                    found[name]["torch.compile"] = min(through_compile) / ours
        return found


def run(stem: str, quick: bool) -> Iterator[Timing]:
    """Every case of an operator module; quick: its first, forward and backward, without torch.compile."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = shipped("benchmarks", "bench_tools.py")
    if not (folder / f"bench_{stem}.py").is_file():
        return
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        tools, cases = importlib.import_module("bench_tools"), importlib.import_module(f"bench_{stem}").CASES
    except Exception:  # its cases compare values as they are made: the report holds it, and selftest fails
        yield Timing(stem, f"bench_{stem}.py", "", device, error=traceback.format_exc())
        return
    for case in cases[:1] if quick else cases:
        for order in tools.ORDERS[:2] if quick else tools.ORDERS:
            try:
                seconds = tools.measure(case, order, 0.05 if quick else 0.3, not quick, device)
            except Exception:
                yield Timing(stem, case.label, order, device, error=traceback.format_exc())
            else:
                yield Timing(stem, case.label, order, device, {k: round(1e3 * t, 5) for k, t in seconds.items()})
