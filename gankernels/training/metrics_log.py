"""metrics.jsonl: one JSON object a line, and TensorBoard beside it where that is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from gankernels.errors import CheckpointError, need


def read_metrics(path: Path, *, until: int | None = None) -> list[dict[str, Any]]:
    """The lines up to and including step `until`. A last line cut short by a kill is left out.

    Raises:
        CheckpointError: another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for i, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if i + 1 < len(lines):
                raise CheckpointError(f"{path} is damaged at line {i + 1}; mend or move it") from error
    return [line for line in found if until is None or line["step"] <= until]


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}


class MetricsLog:
    """Appends to a run's metrics.jsonl, beginning with the lines of `history` (which a resumed run keeps)."""

    def __init__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        self.path = folder / "metrics.jsonl"
        history = [_finite(line) for line in history]
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
        os.replace(temporary, self.path)
        self.lines = list(history)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = None
        if importlib.util.find_spec("tensorboard") is not None:
            writer = need("torch.utils.tensorboard", "tensorboard").SummaryWriter
            self._board = writer(folder / "tensorboard", purge_step=history[-1]["step"] + 1 if history else 0)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; a number that is not finite is null in it, as JSON has no NaN."""
        line = _finite(line)
        self.lines.append(line)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, line["step"])

    def picture(self, name: str, image: Any, step: int) -> None:
        """Show a Pillow image on TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
