"""What selftest writes: all of it as JSON, and as Markdown what a reader of an issue wants to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import torch

from gankernels import _backend, _doctor
from gankernels.selftest.benchmarks import Timing
from gankernels.selftest.checks import Check

LONGEST = 3000
"""Characters of one failure's text in the Markdown; the JSON has all."""


def gathered(checks: Sequence[Check], timings: Sequence[Timing], quick: bool, seconds: float) -> dict:
    """The report as JSON takes it."""
    return {
        "format": 1,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "seconds": round(seconds, 1),
        "passed": not failures(checks, timings),
        "facts": _doctor.facts(),
        "gpu": _gpu(),
        "backends": {op: cells for op, cells in _doctor.table()},
        "checks": [asdict(check) for check in checks],
        "timings": [{**asdict(timing), "ratios": timing.ratios} for timing in timings],
    }


def failures(checks: Sequence[Check], timings: Sequence[Timing]) -> list[str]:
    """A line for each thing that went wrong; that nothing was checked is one, too."""
    found = [f"{c.operator} {c.backend} {c.name}: {c.outcome}".replace("  ", " ") for c in checks if c.bad]
    found += [f"{t.operator} benchmark {t.case} {t.order}: failed" for t in timings if t.error]
    if not any(check.outcome == "passed" for check in checks):
        found.append("no check has passed")
    return found


def _gpu() -> dict[str, object] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "gigabytes": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "count": torch.cuda.device_count(),
    }


def markdown(report: dict, checks: Sequence[Check], timings: Sequence[Timing]) -> str:
    wrong = failures(checks, timings)
    verdict = "everything passed" if not wrong else f"{len(wrong)} went wrong"
    kind = "quick" if report["quick"] else "whole"
    lines = ["# gankernels selftest", "", f"{report['when']}, {kind} run of {report['seconds']} s: **{verdict}**.", ""]
    lines += [f"- {name}: {value}" for name, value in report["facts"].items()]
    if report["gpu"]:
        lines.append(f"- first GPU: {', '.join(f'{key} {value}' for key, value in report['gpu'].items())}")
    lines += ["", "## What each backend can do here", ""]
    lines += _table(
        ["operator", *_backend.NAMES],
        [[op, *(cells[name] for name in _backend.NAMES)] for op, cells in report["backends"].items()],
    )
    lines += ["", "## Checks", "", *_counts(checks)]
    if wrong:
        lines += ["", "## What went wrong", "", *(f"- {line}" for line in wrong)]
        for title, text in [(f"{c.operator} {c.backend} {c.name}", c.message) for c in checks if c.bad] + [
            (f"{t.operator} benchmark {t.case} {t.order}", t.error) for t in timings if t.error
        ]:
            lines += ["", f"### {title}", "", "```", text[-LONGEST:].strip().replace("```", "'''"), "```"]
    if timed := [timing for timing in timings if not timing.error]:
        lines += ["", "## Times", "", f"Median milliseconds on {timed[0].device}. A ratio above 1: ours is faster.", ""]
        lines += _table(["case", "order", "times", "ratios"], [_row(timing) for timing in timed])
    return "\n".join(lines) + "\n"


def _counts(checks: Sequence[Check]) -> list[str]:
    outcomes = ("passed", "failed", "crashed", "skipped")
    counts = Counter((check.operator, check.backend, check.outcome) for check in checks)
    pairs = sorted({(check.operator, check.backend) for check in checks})
    rows = [
        [op, backend or "all", *(str(counts[op, backend, outcome]) for outcome in outcomes)] for op, backend in pairs
    ]
    return _table(["operator", "backend", *outcomes], rows)


def _row(timing: Timing) -> list[str]:
    times = ", ".join(f"{name} {value:.3f}" for name, value in timing.milliseconds.items())
    ratios = "; ".join(
        f"{name}: " + ", ".join(f"{other} {value:.2f}" for other, value in found.items())
        for name, found in timing.ratios.items()
    )
    return [timing.case, timing.order, times, ratios]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body]
