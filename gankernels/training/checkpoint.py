"""Checkpoints: one safetensors file whose header carries the rest of the state as JSON; nothing is pickled.

A file is written under a temporary name in its own folder, synced to the disk and renamed, so that whatever ends the
process in between leaves the earlier checkpoints whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gankernels.errors import CheckpointError, need

FORMAT = 1
SUFFIX = ".safetensors"
_HEADER = "gankernels"
_TEMPORARY = ".tmp"


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples of tensors and plain values into named tensors and a JSON-able rest.

    In the rest, `{"tensor": name}` stands for a tensor and `{"items": [[key, value], ...]}` for a dict. Tuples become
    lists. Raises TypeError on anything that JSON cannot carry.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"items": [[key, walk(one, f"{name}.{key}" if name else str(key))] for key, one in value.items()]}
        if isinstance(value, list | tuple):
            return [walk(one, f"{name}.{i}" if name else str(i)) for i, one in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot carry")

    return tensors, walk(tree, "")


def unpack(tensors: dict[str, Tensor], rest: Any) -> Any:
    """The inverse of `pack`; raises KeyError where a tensor is missing."""
    if isinstance(rest, dict):
        if "tensor" in rest:
            return tensors[rest["tensor"]]
        return {key: unpack(tensors, value) for key, value in rest["items"]}
    if isinstance(rest, list):
        return [unpack(tensors, value) for value in rest]
    return rest


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state (nested dicts and lists of tensors and plain values) to path, wholly or not at all.

    Raises:
        CheckpointError: the disk does not take it; what lay there before is unharmed.
    """
    refused = need("safetensors", "train").SafetensorError  # what safetensors makes of an OSError of its own
    save_file = need("safetensors.torch", "train").save_file
    tensors, rest = pack(state)
    header = {_HEADER: json.dumps({"format": FORMAT, "state": rest})}
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=header)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, refused) as error:
        with contextlib.suppress(OSError):  # it may not be there, nor its folder
            temporary.unlink()
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write {path} ({reason}); free space or change --out") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: no such file, truncated or damaged, no checkpoint of gankernels, or of a later format.
    """
    safetensors = need("safetensors", "train")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error}); take an earlier one") from error
    if header is None:
        raise CheckpointError(f"{path} holds tensors but no training state of gankernels; it is another program's file")
    try:
        content = json.loads(header)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {content['format']} and this version reads {FORMAT}; "
                f"use the version of gankernels that wrote it"
            )
        return unpack(tensors, content["state"])
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; it is incomplete, take another checkpoint") from error
    except (json.JSONDecodeError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged header ({error}); take another checkpoint") from error


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:08}{SUFFIX}"


def all_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, by step; not what lies beside them under other names."""
    found = (run / "checkpoints").glob(f"*{SUFFIX}")
    return sorted((path for path in found if re.fullmatch("[0-9]+", path.stem)), key=lambda path: int(path.stem))


def find(path: Path) -> Path:
    """The checkpoint that path names: a checkpoint itself, or the newest of a run's folder."""
    if not path.is_dir():
        return path
    found = all_checkpoints(path)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint; name a run's folder or a {SUFFIX} file")
    return found[-1]


def tidy(run: Path, keep: int, step: int) -> None:
    """Remove all but the last `keep` checkpoints up to `step` (0: none), and what a kill during a save left behind.

    Later ones are not this run's past: they stay, and do not count.
    """
    for path in (run / "checkpoints").glob(f"*{SUFFIX}{_TEMPORARY}"):
        path.unlink()
    past = [path for path in all_checkpoints(run) if int(path.stem) <= step]
    for path in past[:-keep] if keep else ():
        path.unlink()


def load_module(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load a state dict of exactly the module's names and shapes.

    Raises:
        CheckpointError: names the first tensor that is missing, left over or of another shape.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{what} lacks {name}; it belongs to another model")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{what} has {name} of shape {list(tensors[name].shape)} where this model has {list(tensor.shape)}; "
                f"it belongs to another model or other options"
            )
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{what} holds {name}, which this model lacks; it belongs to another model")
    module.load_state_dict(tensors)
