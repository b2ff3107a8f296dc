"""One selftest from end to end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gankernels.errors import ConfigError, need
from gankernels.selftest import benchmarks, checks, report


def selftest(out: Path, quick: bool = False, only: Sequence[str] = (), timed: bool = True) -> bool:
    """Run the operators' tests on every usable backend, time them, and write selftest.json and selftest.md into `out`.

    Args:
        out: a folder, made where missing.
        quick: the most telling tests only, and one benchmark case of each operator module without torch.compile.
        only: names of operators; all unless given.
        timed: whether to run the benchmarks.

    Returns: whether everything passed. The names of what did not are printed.
    Raises: MissingDependency without pytest; ConfigError for an unknown operator or a folder that cannot be made.
    """
    for module in ("pytest", "hypothesis"):
        need(module, "selftest")
    chosen = checks.stems(only)
    try:
        out.mkdir(parents=True, exist_ok=True)  # before the long part: it may not be possible
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be made a folder ({error})") from error
    began = time.perf_counter()
    found, timings = [], []
    for stem in chosen:
        results = checks.run(stem, quick)
        found += results
        counts = Counter(check.outcome for check in results)
        print(f"{stem}: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())), flush=True)
    for stem in chosen if timed else ():
        for timing in benchmarks.run(stem, quick):
            timings.append(timing)
            ratios = {name: value.get("PyTorch", 0.0) for name, value in timing.ratios.items()}
            told = ", ".join(f"{name} {ratio:.2f}x PyTorch" for name, ratio in ratios.items())
            print(f"{timing.case} {timing.order}: {told or 'failed'}", flush=True)
    gathered = report.gathered(found, timings, quick, time.perf_counter() - began)
    (out / "selftest.json").write_text(json.dumps(gathered, indent=1) + "\n")
    (out / "selftest.md").write_text(report.markdown(gathered, found, timings))
    wrong = report.failures(found, timings)
    for line in wrong:
        print(f"FAILED {line}")
    print(f"{'passed' if not wrong else 'failed'}; the report is in {out / 'selftest.md'} and {out / 'selftest.json'}")
    return not wrong
