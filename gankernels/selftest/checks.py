"""The operators' tests (those of the checkout, which a wheel carries along), a process for each file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gankernels import _backend, ops
from gankernels._shipped import shipped
from gankernels.errors import ConfigError
from gankernels.selftest import plugin

QUICK = "values_and_gradients or layouts or runs_its_kernel or stays_with_its_graph or asked_for or bad_input"
"""The tests of the battery that find most in the least time, as pytest's -k takes it."""

PATIENCE = 3600.0
"""Seconds after which a file's process counts as hanging."""


@dataclass(frozen=True)
class Check:
    """One test; outcome is passed, failed, skipped or crashed, and the message says why."""

    operator: str
    backend: str
    name: str
    outcome: str
    message: str
    seconds: float

    @property
    def bad(self) -> bool:
        return self.outcome in ("failed", "crashed")


def stems(only: Sequence[str] = ()) -> list[str]:
    """The modules of gankernels.ops to test: all, or those in `only`, which names modules or operators.

    Raises: ConfigError for a name that is neither.
    """
    folder = shipped("tests", "op_tests.py")
    modules = sorted(path.stem for path in Path(ops.__file__).parent.glob("[!_]*.py"))
    modules = [stem for stem in modules if (folder / f"test_{stem}.py").is_file()]
    homes = {op: _backend.home(op) for op in _backend.operators() if not _backend.home(op).startswith("_")}
    chosen = [homes.get(name, name) for name in only]
    for name, stem in zip(only, chosen, strict=True):
        if stem not in modules:
            known = ", ".join(sorted({*homes, *modules}))
            raise ConfigError(f"only: {name} is no operator, expected some of {known}")
    return [stem for stem in modules if not only or stem in chosen]


def run(stem: str, quick: bool) -> list[Check]:
    """Every test of an operator module, in a process of its own: what crashes there harms no other."""
    folder = shipped("tests", "op_tests.py")
    with tempfile.TemporaryDirectory(prefix="gankernels-selftest-") as temporary:
        log, settings = Path(temporary) / "log", Path(temporary) / "pytest.ini"
        log.touch()
        settings.write_text("[pytest]\n")  # whatever project this runs in, its settings are not ours
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            plugin.__name__,
            "-m",
            "not slow",
        ]
        command += ["-c", str(settings), f"--rootdir={folder}", f"--confcutdir={folder}", "--tb=short"]
        command += ["-k", QUICK] if quick else []
        environment = {
            **os.environ,
            plugin.LOG: str(log),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(temporary) / "hypothesis"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("PYTEST_ADDOPTS", None)
        try:
            done = subprocess.run(
                [*command, str(folder / f"test_{stem}.py")],
                env=environment, cwd=temporary, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            )  # fmt: skip
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            code, output = -1, f"did not end within {error.timeout:.0f} s"
        found = list(_checks(stem, log))
    # pytest's 0 is all passed, 1 some failed, 5 none chosen; anything else ended it before its time.
    if code not in (0, 1, 5) and not any(check.bad for check in found):
        found.append(Check(stem, "", "the process of its tests", "crashed", f"exit code {code}: {output[-3000:]}", 0.0))
    return found


def _checks(stem: str, log: Path) -> Iterator[Check]:
    tests: dict[str, dict] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        known = tests.setdefault(entry["test"], {"operator": stem, "backend": "", "name": entry["test"]})
        if known.get("outcome") != "failed":  # of a failure and then one while cleaning up, the first
            known |= entry
    for entry in tests.values():
        if "outcome" in entry:  # the rest were not reached
            yield Check(*(entry[key] for key in ("operator", "backend", "name", "outcome", "message", "seconds")))
