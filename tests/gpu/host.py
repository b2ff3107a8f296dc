"""An operator's entries (`csrc/cuda/<op>_entries.cpp`), compiled by the host compiler and called through ctypes."""

import ctypes
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from gankernels._launch import Run

from . import paths

_I64 = ctypes.c_longlong
_LIST = ctypes.POINTER(ctypes.c_longlong)
Begin = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
Address = ctypes.CFUNCTYPE(ctypes.c_ulonglong, ctypes.c_void_p, _I64, _I64, _I64, _I64, _LIST, _LIST)


class Emulator(ctypes.Structure):
    """gk::Emulator of csrc/cuda/device.h."""

    _fields_ = [("begin", Begin), ("address", Address), ("run", Run)]


class HostLibrary:
    """One operator: `entries` maps a name to its parameters [(name, kind)], `kernels` lists instantiations."""

    def __init__(self, library, symbols):
        self.library = library
        self.kernels = []
        self.entries = {}
        for symbol in symbols:
            if symbol.endswith("_kernels"):
                array = (ctypes.c_char_p * 4096).in_dll(library, symbol)
                for name in array:
                    if name is None:
                        break
                    self.kernels.append(name.decode())
            elif symbol.endswith("_signature"):
                text = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, symbol))).decode()
                entry = symbol.removesuffix("_signature")
                self.entries[entry] = parse_signature(text)
                getattr(library, entry).restype = ctypes.c_char_p


_KINDS = {"void*": "pointer", "gk::i64": "integer", "double": "real", "gk::i64*": "list"}


def parse_signature(text):
    """[(name, kind)] of an entry's C parameters; kinds are pointer, integer, real and list."""
    parameters = []
    for part in text.split(","):
        words = re.sub(r"\s*\*\s*", "* ", part.replace("const ", "")).split()
        ctype, name = " ".join(words[:-1]).replace("i64 *", "i64*"), words[-1]
        if ctype.startswith("i64"):
            ctype = f"gk::{ctype}"
        if ctype not in _KINDS:
            raise TypeError(f"entry parameter `{part.strip()}`: expected void*, gk::i64, double or const gk::i64*")
        parameters.append((name, _KINDS[ctype]))
    return parameters


@cache
def build(source, includes):
    """Compiles an entry file (cached by content) and loads it."""
    source = Path(source)
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    key = paths.digest(source, compiler, *flags, *paths.headers([*includes, source.parent]))
    target = paths.cache() / f"host-{source.stem}-{key}.so"
    if not target.exists():
        temporary = target.with_suffix(f".{os.getpid()}")
        command = [
            compiler,
            *flags,
            *(f"-I{path}" for path in (*includes, source.parent)),
            str(source),
            "-o",
            str(temporary),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")
        os.replace(temporary, target)
    names = subprocess.run(["nm", "-D", "--defined-only", target], capture_output=True, text=True, check=True).stdout
    symbols = sorted(line.split()[-1] for line in names.splitlines() if line.split()[-1].startswith("gk_"))
    return HostLibrary(ctypes.CDLL(str(target)), symbols)
