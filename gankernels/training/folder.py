"""A run's folder before it begins: whose checkpoints lie there, and which of them the run has for its past."""

from __future__ import annotations

import shutil
from pathlib import Path

from gankernels.errors import CheckpointError, ConfigError
from gankernels.training.checkpoint import all_checkpoints, load, save
from gankernels.training.watch import best_path


def check_place(folder: Path, file: Path, step: int) -> None:
    """Raise InputError where going on from a file in a folder would write among checkpoints that are not its past."""
    kept = all_checkpoints(folder)
    if folder.resolve() != file.parent.parent.resolve():
        if kept:
            raise ConfigError(
                f"{folder} already holds a run; branch off from {file} with --out and a folder of its own"
            )
    elif kept and int(kept[-1].stem) > step:
        raise CheckpointError(
            f"{folder} holds the newer checkpoint {kept[-1].name}; resume that one, or branch off from "
            f"{file.name} with --out FOLDER"
        )


def bring_best(origin: Path, folder: Path, step: int) -> bool:
    """Whether the folder holds the checkpoint of the best value in the history that a run at `step` takes from the
    folder `origin`; where it branches off into another folder the checkpoint is copied there."""
    best = best_path(origin)
    if not best.is_file():
        return False
    if origin.resolve() != folder.resolve():
        state = load(best)
        if state["step"] > step:  # the history ends before it
            return False
        save(best_path(folder), state)
    return True


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else, from a folder."""
    for name in ("checkpoints", "samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("metrics.jsonl", "config.json", "samples.gif", "samples-over-time.png", "curves.png"):
        (folder / name).unlink(missing_ok=True)
