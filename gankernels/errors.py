"""The errors that a user can cause and mend: each message is a sentence that says what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class InputError(ValueError):
    """What was asked for cannot work; the command line prints the message without a traceback and exits with 2.

    Attributes:
        shared: whether all processes of a run know it, so that the first says it for all.
    """

    shared = False


class ConfigError(InputError):
    """A setting is out of its range or contradicts another."""


class DataError(InputError):
    """A data set is unknown, unreadable or does not hold what was asked of it."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, or belongs to another model or run."""


class UnsafePickle(CheckpointError):
    """A pickle asks for more than the data of networks needs; nothing of what it asked for was done."""


class TrainingDiverged(RuntimeError):
    """A loss or a gradient became NaN or infinite; nothing of that step was saved."""


class ProcessLost(RuntimeError):
    """Another process of a run ended or no longer answers; nothing of the step in hand was saved."""


class MissingDependency(InputError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name, for example "PIL.Image".
        extra: the extra of gankernels that installs it, for example "train".

    Raises:
        MissingDependency: the package is not installed. An error inside an installed package passes unchanged.
    """
    root = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        package = {"PIL": "pillow", "sklearn": "scikit-learn"}.get(root, root.replace("_", "-"))
        raise MissingDependency(
            f"{package} is not installed: pip install {package}, or take all that gankernels' extra {extra!r} names "
            f"(in its source folder: pip install --no-build-isolation -e '.[{extra}]')"
        ) from error
