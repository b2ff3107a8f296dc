"""The battery counted: `pytest tests --cells FILE` writes what each operator's backends passed, and why tests skipped.

A cell is an operator, a backend and a check: one test of an OpTests class, or one whose parameter `name` is one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from gankernels import _backend, ops

OPTION = "--cells"


def add_option(parser) -> None:
    parser.addoption(OPTION, metavar="FILE", help="write the count of operator x backend x check as Markdown")


class Cells:
    """A pytest plugin."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def pytest_collection_modifyitems(self, items) -> None:
        """In every worker: user_properties travel to where the summary is made."""
        for item in items:
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            operator = getattr(item.cls, "name", None) or parameters.get("name")
            if operator in _backend.operators() or operator in ops.__all__:
                backend = parameters.get("backend", "all at once")
                backend = f"{backend[0]} sm_{backend[1]}" if isinstance(backend, tuple) else str(backend)
                item.user_properties.append(("cell", (operator, backend, item.originalname)))

    def pytest_terminal_summary(self, terminalreporter) -> None:
        cells = {}
        for outcome in ("passed", "skipped", "failed", "error"):
            for report in terminalreporter.stats.get(outcome, ()):
                found = dict(getattr(report, "user_properties", ())).get("cell")
                if found is not None:
                    cells[report.nodeid] = (*found, outcome, _reason(report) if outcome == "skipped" else "")
        text = table(cells.values())
        self.file.write_text(text)
        terminalreporter.write_line(f"{self.file}: {text.splitlines()[2]}")


def _reason(report) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def table(cells) -> str:
    """Markdown of (operator, backend, check, outcome, reason of a skip)."""
    counts, reasons, totals = defaultdict(Counter), defaultdict(set), Counter()
    for operator, backend, _, outcome, reason in cells:
        outcome = "failed" if outcome == "error" else outcome
        counts[operator, backend][outcome] += 1
        totals[outcome] += 1
        if outcome == "skipped":
            reasons[reason.strip() or "NO REASON"].add((operator, backend))
    backends = sorted({backend for _, backend in counts})
    silent = len(reasons.get("NO REASON", ()))
    lines = [
        "# The battery: operator x backend x check",
        "",
        f"{sum(totals.values())} cells: {totals['passed']} green, {totals['failed']} failed, {totals['skipped']} "
        f"skipped for {len(reasons)} reasons, {silent} without one.",
        "",
        "Green, and in brackets skipped.",
        "",
        "| operator | " + " | ".join(backends) + " |",
        "|---" * (len(backends) + 1) + "|",
    ]
    for operator in sorted({operator for operator, _ in counts}):
        row = [_cell(counts.get((operator, backend))) for backend in backends]
        lines.append(f"| {operator} | " + " | ".join(row) + " |")
    lines += ["", "## Why the others skipped", ""]
    for reason, where in sorted(reasons.items()):
        lines.append(f"- {reason}: {', '.join(sorted({operator for operator, _ in where}))}")
    return "\n".join(lines) + "\n"


def _cell(count: Counter | None) -> str:
    if count is None:
        return ""
    skipped = f" ({count['skipped']})" if count["skipped"] else ""
    failed = f", {count['failed']} FAILED" if count["failed"] else ""
    return f"{count['passed']}{skipped}{failed}"
