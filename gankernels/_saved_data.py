"""What pickles of tensors and arrays may build: data that knows its size before a byte of it is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankernels._pickles import Calls, Inert, Record, key, shown
from gankernels.errors import CheckpointError, UnsafePickle

KINDS = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_PLAIN_DTYPE = re.compile(r"^[<>|=]?(b1|[iu][1248]|f[248])$")


class Storage:
    """The numbers of one `torch.save`d storage: a dtype, a length, and how to get the bytes once they are wanted."""

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.read: Callable[[], bytes] | None = None
        self._numbers: Tensor | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize

    def numbers(self) -> Tensor:
        """All of them, read once however many tensors are views of them."""
        if self._numbers is None:
            self._numbers = self._read()
        return self._numbers

    def _read(self) -> Tensor:
        content = b"" if self.read is None else self.read()
        if len(content) != self.size:
            raise CheckpointError(f"a storage has {len(content)} bytes where {self.size} belong; the file is truncated")
        return torch.frombuffer(bytearray(content), dtype=self.dtype) if content else torch.empty(0, dtype=self.dtype)


@dataclass(frozen=True)
class Strided:
    """A tensor before its numbers are read: a view of a storage that lies within it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """A tensor of its own, [*shape], contiguous."""
        return self.storage.numbers().as_strided(self.shape, self.stride, self.offset).clone(
            memory_format=torch.contiguous_format
        )  # fmt: skip


def _strided(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Strided:
    """Of `torch._utils._rebuild_tensor_v2`; gradients' flag and hooks say nothing about numbers."""
    numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    whole = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
    if not isinstance(storage, Storage) or not whole or len(shape) != len(stride) or len(shape) > 16:
        raise UnsafePickle("it has a tensor whose parts are no storage, offset, shape and stride")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if count else 0
    if count > storage.count or (count and last >= storage.count):
        raise UnsafePickle(f"it has a tensor of shape {list(shape)} in a storage of {storage.count} numbers")
    return Strided(storage, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> Strided:
    if not isinstance(data, Strided):
        raise UnsafePickle(f"it has a parameter that is a {type(data).__name__}")
    return data


class Dtype(Inert):
    """A NumPy dtype of plain numbers; its state says the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.match(code):
            raise UnsafePickle(f"it has an array of dtype {shown(code, 20)!r}; those of plain numbers are read")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, content: Any, shape: tuple[int, ...], order: str) -> np.ndarray:
        whole = all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 16
        if not isinstance(content, bytes) or not whole or math.prod(shape) * self.dtype.itemsize != len(content):
            raise UnsafePickle("it has an array whose bytes are not those of its shape")
        return np.frombuffer(content, self.dtype).reshape(shape, order=order)


class Array(Inert):
    """A NumPy array; `value` once its state is set."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
            raise UnsafePickle("it has an array whose state is no version, shape, dtype, order and bytes")
        _, shape, dtype, fortran, content = state
        self.value = dtype.array(content, shape if isinstance(shape, tuple) else (-1,), "F" if fortran else "C")


def _scalar(dtype: Any, content: Any) -> int | float | bool:
    if not isinstance(dtype, Dtype):
        raise UnsafePickle("it has a NumPy number without a dtype")
    return dtype.array(content, (), "C").item()


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickle("it encodes a text other than as latin1")
    return text.encode("latin1")


def record(pairs: Any = ()) -> Record:
    """A mapping, empty or (protocol 2) of a list of pairs."""
    if not isinstance(pairs, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
        raise UnsafePickle("it makes a mapping of something that is no list of pairs")
    return Record((key(k), value) for k, value in pairs)


def _numbers(values: Any = ()) -> tuple:
    return tuple(values) if isinstance(values, list | tuple) else ()


def _set(values: Any = ()) -> frozenset:
    return frozenset(key(value) for value in _numbers(values))


_ARRAYS = {
    f"numpy.{core}.multiarray.{name}": call
    for core in ("core", "_core")
    for name, call in (("_reconstruct", Array), ("scalar", _scalar))
}
DATA: Calls = {
    "torch._utils._rebuild_tensor_v2": _strided,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **{f"torch.{kind}Storage": None for kind in KINDS},
    **{f"torch.{name}": None for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8")},
    "torch.Size": _numbers,
    "torch.device": lambda *where: shown(where[0]) if where else "",
    "collections.OrderedDict": record,
    "argparse.Namespace": record,
    **{f"{home}.{kind}": _set for home in ("builtins", "__builtin__") for kind in ("set", "frozenset")},
    "_codecs.encode": _encode,
    "numpy.ndarray": None,
    "numpy.dtype": Dtype,
    **_ARRAYS,
}
"""Names that `torch.save`d numbers and settings may hold; `torch.storage._load_from_bytes` is none."""


def check_distinct(tensors: Iterable[Strided]) -> None:
    """Raise UnsafePickle where tensors together are larger than the storages that they are views of: a few bytes
    would become gigabytes once each is a tensor of its own."""
    storages: dict[int, Storage] = {}
    wanted = 0
    for one in tensors:
        storages[id(one.storage)] = one.storage
        wanted += math.prod(one.shape) * one.storage.dtype.itemsize
    there = sum(storage.size for storage in storages.values())
    # Weights that two networks of a file share are honest; so is a scalar used a few times.
    if wanted > 4 * there + 1_000_000:
        raise UnsafePickle(f"its tensors would take {wanted} bytes, and the numbers behind them are {there}")
