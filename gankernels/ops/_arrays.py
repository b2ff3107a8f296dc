"""NumPy and CuPy arrays as arguments of the operators: in by DLPack without a copy, the result back the same way."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def accept(op: Callable, written: Sequence[str] = (), when: str = "") -> Callable:
    """`op`, which also takes arrays: a NumPy array as its first argument gives a NumPy array, a CuPy array a CuPy one.

    The first argument decides. Beside an array stand arrays of the same library, or tensors that need no gradient;
    beside a tensor arrays are refused. An array that PyTorch cannot read in place (read-only, of the other byte order,
    of negative strides) is copied; the arguments named in `written` are not where argument `when` is true, but refused.

    Raises: what `op` does, and ValueError for a mixture and for a dtype that PyTorch lacks.
    """
    names = tuple(inspect.signature(op).parameters)
    first = names[0]

    @functools.wraps(op)
    def run(*args, **kwargs):
        if isinstance(args[0] if args else kwargs.get(first), Tensor):
            return op(*args, **kwargs)
        return _run(op, names, written, when, args, kwargs)

    run.__module__ = __package__  # where pickle finds this one, and not the bare operator
    return run


def _run(
    op: Callable, names: Sequence[str], written: Sequence[str], when: str, args: Sequence, kwargs: dict[str, Any]
) -> Any:
    x = args[0] if args else kwargs.get(names[0])
    library = _library(x)
    if library is None:
        return op(*args, **kwargs)  # which names what it expected
    label = op.__name__
    changed = written if kwargs.get(when) else ()

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.requires_grad and torch.is_grad_enabled():
                raise ValueError(
                    f"{label}: {name} is a tensor that requires grad beside {names[0]}, a {_kind(x)}, whose result has "
                    f"no gradient; make a tensor of {names[0]} (torch.from_dlpack), or call under torch.no_grad()"
                )
            return value
        if _library(value) is None:
            return value
        if _library(value) is not library:
            raise ValueError(
                f"{label}: {name} is a {_kind(value)}, expected a {_kind(x)} as {names[0]}; convert one of them"
            )
        return as_tensor(label, name, value, written=name in changed)

    positional = [convert(name, value) for name, value in zip(names, args, strict=False)]
    named = {name: convert(name, value) for name, value in kwargs.items()}
    y = op(*positional, *args[len(positional) :], **named)
    mine = {t.untyped_storage().data_ptr() for t in (*positional, *named.values()) if isinstance(t, Tensor)}
    if isinstance(y, tuple):
        return tuple(_back(label, library, t, mine) for t in y)
    return _back(label, library, y, mine)


def as_tensor(op: str, name: str, value: Any, written: bool = False) -> Any:
    """A NumPy or CuPy array as a tensor that shares its memory where it can, else has a copy; other things unchanged.

    Raises: ValueError for a dtype that PyTorch lacks, and where it would be a copy though the array is to be `written`.
    """
    library = _library(value)
    if library is None:
        return value
    dtype = value.dtype
    if dtype.kind not in "fiubc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise ValueError(f"{op}: {name} has dtype {dtype}, expected float16, float32 or float64; convert it first")
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{op}: {name} is a masked array, whose mask would be lost; pass {name}.filled(number)")
    if _in_place(value):
        return torch.from_dlpack(value)
    if written:
        raise ValueError(
            f"{op}: {name} is written in place, but it is a read-only array, or one of strides or a byte order that "
            f"PyTorch lacks; pass {library.__name__}.array({name}, '{dtype.name}'), which it can write to"
        )
    return torch.from_dlpack(library.array(value, dtype=dtype.newbyteorder("="), order="K", copy=True))


def _in_place(a: Any) -> bool:
    """Whether PyTorch can share the memory of array `a`."""
    if any(stride < 0 or stride % a.itemsize for stride in a.strides):
        return False
    return not isinstance(a, np.ndarray) or (a.flags.writeable and a.flags.aligned and a.dtype.isnative)


def _library(value: Any) -> ModuleType | None:
    """The array library that `value` is an array of, or None."""
    if isinstance(value, np.ndarray):
        return np
    cupy = sys.modules.get("cupy")  # never imported for this: who holds a CuPy array has done so
    return cupy if cupy is not None and isinstance(value, cupy.ndarray) else None


def _kind(value: Any) -> str:
    return f"{_library(value).__name__}.ndarray"


def _back(op: str, library: ModuleType, y: Any, mine: set[int]) -> Any:
    """A result as an array; one that lies in an argument's memory is copied, so that changing it changes no input."""
    if not isinstance(y, Tensor):
        return y
    if y.dtype == torch.bfloat16:
        raise ValueError(
            f"{op}: the result is bfloat16, which is not given as a {library.__name__}.ndarray; pass tensors, or leave "
            "torch.autocast"
        )
    if y.numel() and y.untyped_storage().data_ptr() in mine:
        y = y.clone()
    return y.numpy() if library is np else library.from_dlpack(y)
