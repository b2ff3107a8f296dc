"""Breaks kernels on purpose, one at a time in a copy of the sources, and sees the tests catch each.

    cd tests && python -m gpu.mutations [name ...]

prints, for every mutation, the test that failed and why. One that passes is a hole in the tests, and an error here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .paths import ROOT


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` at its only place in `file`; `tests` are arguments for pytest, of which one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BIAS_ACT = ("tests/test_bias_act_gpu.py",)
MUTATIONS = (
    Mutation(
        "mask off by one",
        "gankernels/triton/bias_act.py",
        "mask = None if EVEN else at < numel",
        "mask = None if EVEN else at <= numel",
        (*BIAS_ACT, "-k", "triton and values"),
    ),
    Mutation(
        "a bias read by the wrong stride",
        "gankernels/triton/bias_act.py",
        "channel = (group * VEC // inner % channels)[:, None]",
        "channel = (group * VEC // channels % channels)[:, None]",
        (*BIAS_ACT, "-k", "triton and values"),
    ),
    Mutation(
        "a missing barrier",
        "csrc/cuda/bias_act.cuh",
        "    __syncthreads();\n    if (threadIdx.y < half) {",
        "    if (threadIdx.y < half) {",
        (*BIAS_ACT, "-k", "cuda_paths"),
    ),
)


def mutate(mutation: Mutation, folder: Path) -> None:
    """A copy of the sources in `folder`, with the mutation."""
    for name in ("csrc", "gankernels", "models", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
        else:
            shutil.copy(source, folder / name)
    path = folder / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has its text {text.count(mutation.old)} times, expected 1")
    path.write_text(text.replace(mutation.old, mutation.new))


def caught(mutation: Mutation) -> str | None:
    """Which test failed, and its message; None where all passed."""
    with tempfile.TemporaryDirectory() as folder:
        mutate(mutation, Path(folder))
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short", *mutation.tests],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"{mutation.name}: pytest ended with {run.returncode}\n{run.stdout}{run.stderr}")
    if run.returncode == 0:
        return None
    failed = re.search(r"^FAILED \S*?::(.*?)( - (.*))?$", run.stdout, re.M)
    reasons = re.findall(r"^E +(.*)$", run.stdout, re.M)
    return f"{failed[1] if failed else '?'}: {reasons[0] if reasons else '?'}"


def main(names: list[str]) -> int:
    survived = 0
    for mutation in MUTATIONS:
        if names and mutation.name not in names:
            continue
        start = time.monotonic()
        reason = caught(mutation)
        survived += reason is None
        print(
            f"{mutation.name} ({mutation.file}), {time.monotonic() - start:.0f} s: {reason or 'NOT CAUGHT'}", flush=True
        )
    return survived


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
