"""Pickles read by an interpreter of our own, which calls nothing that a pickle names.

`pickle.Unpickler` imports and calls whatever a file asks for, and `torch.load` stands behind
`torch.storage._load_from_bytes`, so neither is used. `Machine` walks the instructions that `pickletools` decodes, keeps
a closed table of names, and each of them stands for a few lines of this package that build numbers, strings, containers
and views of bytes that lie in the file. A name outside the table ends the reading before anything is made of it.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from gankernels.errors import CheckpointError, UnsafePickle

SCALARS = (str, bytes, int, float, complex, bool, type(None))


@dataclass(frozen=True)
class Name:
    """A global that a pickle names, and which the table knows: nothing is imported for it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Base of what table entries return where a pickle then sets its state (BUILD)."""

    def build(self, state: Any) -> None:
        raise UnsafePickle(f"it sets the state of a {type(self).__name__}, which has none")


class Record(dict, Inert):
    """A mapping with named attributes, such as argparse.Namespace: both are its items."""

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise UnsafePickle(f"it sets a mapping's state to a {type(state).__name__}")
        # A state dict carries its `_metadata` so, which says nothing about numbers.
        self.update((key, value) for key, value in state.items() if key != "_metadata")


Calls = Mapping[str, Callable[..., Any] | None]


class Machine:
    """Reads one pickle after another.

    Args:
        calls: "module.name" to what stands for it: called with the pickle's arguments (REDUCE, NEWOBJ), or None where
            it may be named and not called.
        persistent: what stands for an object outside the pickle (BINPERSID); None where there are none.

    Raises, from `load`:
        UnsafePickle: it names something outside the table, or uses an instruction that data does not need.
        CheckpointError: truncated, or no pickle.
    """

    def __init__(self, calls: Calls, persistent: Callable[[Any], Any] | None = None) -> None:
        self.calls, self.persistent = calls, persistent

    def load(self, stream: BinaryIO) -> Any:
        """The object of the pickle that begins at the stream's position; the stream is left after it.

        The stream must lie in memory (BytesIO or mmap): reading more than there is must not reserve it first.
        """
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        here = stream.tell()
        end = stream.seek(0, io.SEEK_END) or stream.tell()  # mmap.seek returns nothing before Python 3.13
        stream.seek(here)
        self.may_copy = 8 * end + 10_000_000
        try:
            for instruction, argument, position in pickletools.genops(stream):
                if instruction.name == "STOP":
                    return self._pop()
                step = _STEPS.get(instruction.name)
                if step is None:
                    raise UnsafePickle(f"instruction {instruction.name} at byte {position} is none that data needs")
                step(self, argument)
        except (RecursionError, MemoryError) as error:
            raise CheckpointError(f"it nests too deep or wants too much memory ({type(error).__name__})") from error
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"it is truncated or no pickle ({error})") from error
        raise CheckpointError("it is truncated or no pickle (it has no end)")

    def _pop(self) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            raise CheckpointError("it is truncated or no pickle (a mark where a value should be)")
        return self.stack.pop()

    def _pops(self) -> list[Any]:
        """All since the last mark."""
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)) or f"{module}.{name}" not in self.calls:
            raise UnsafePickle(f"it names {shown(module)}.{shown(name)}, which no file of networks needs")
        self._push(Name(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self, _: None) -> None:
        arguments, what = self._pop(), self._pop()
        if not isinstance(what, Name) or not isinstance(arguments, tuple):
            raise UnsafePickle(f"it calls a {type(what).__name__}, which is none of the names that it may")
        made_by = self.calls[str(what)]
        if made_by is None:
            raise UnsafePickle(f"it calls {what}, which is a name of a kind and nothing to call")
        # What lies there once can be given to many calls, of which each copies it.
        self.may_copy -= sum(len(one) for one in arguments if isinstance(one, str | bytes | list | tuple))
        if self.may_copy < 0:
            raise UnsafePickle(f"it calls {what} with the same content again and again")
        try:
            made = made_by(*arguments)
        except TypeError as error:
            raise UnsafePickle(f"it calls {what} with other arguments than that takes") from error
        self._push(made)

    def _persistent(self, _: None) -> None:
        if self.persistent is None:
            raise UnsafePickle("it refers to an object outside itself, and there is none")
        self._push(self.persistent(self._pop()))

    def _build(self, _: None) -> None:
        state = self._pop()
        if not isinstance(self.stack[-1], Inert):
            raise UnsafePickle(f"it sets the state of a {type(self.stack[-1]).__name__}")
        self.stack[-1].build(state)

    def _append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise UnsafePickle(f"it appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(values)

    def _set(self, flat: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, Record) or len(flat) % 2:
            raise UnsafePickle(f"it sets items of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(zip(map(key, flat[::2]), flat[1::2], strict=True))

    def _add(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise UnsafePickle(f"it adds to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(key, values))

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))


def shown(value: Any, most: int = 80) -> str:
    """A text for a message. Anything else by its type: tuples of tuples that share can be 2^n long as text."""
    return value[:most] if isinstance(value, str) else type(value).__name__


def key(value: Any) -> Any:
    if not isinstance(value, SCALARS):  # a nested tuple's hash would recurse as deep as the file wants
        raise UnsafePickle(f"a {type(value).__name__} is a key")
    return value


def _dict(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(key, flat[::2]), flat[1::2], strict=True))


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_CONSTANTS = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": lambda m, a: m._pop(),
    "POP_MARK": lambda m, a: m._pops(),
    "DUP": lambda m, a: m._push(m.stack[-1]),
    **{name: (lambda m, a: m._push(a)) for name in _LITERALS},
    **{name: (lambda m, a, make=make: m._push(make())) for name, make in {**_CONSTANTS, **_EMPTY}.items()},
    "LIST": lambda m, a: m._push(m._pops()),
    "TUPLE": lambda m, a: m._push(tuple(m._pops())),
    "DICT": lambda m, a: m._push(_dict(m._pops())),
    "FROZENSET": lambda m, a: m._push(frozenset(map(key, m._pops()))),
    "TUPLE1": lambda m, a: m._tuple(1),
    "TUPLE2": lambda m, a: m._tuple(2),
    "TUPLE3": lambda m, a: m._tuple(3),
    "APPEND": lambda m, a: m._append([m._pop()]),
    "APPENDS": lambda m, a: m._append(m._pops()),
    "SETITEM": lambda m, a: m._set([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, a: m._set(m._pops()),
    "ADDITEMS": lambda m, a: m._add(m._pops()),
    **{name: (lambda m, a: m.memo.__setitem__(int(a), m.stack[-1])) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    "MEMOIZE": lambda m, a: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    **{name: (lambda m, a: m._push(m.memo[int(a)])) for name in ("GET", "BINGET", "LONG_BINGET")},
    "GLOBAL": lambda m, a: m._global(*a.split(" ", 1)),
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
}
"""What each instruction does. INST, OBJ, NEWOBJ_EX, EXT1 to EXT4, PERSID and out-of-band buffers are refused."""
