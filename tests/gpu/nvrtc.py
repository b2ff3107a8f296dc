"""CUDA C++ to PTX and cubin by NVRTC, from its wheels (nvidia-cuda-nvrtc, nvidia-cuda-runtime), with no driver."""

import ctypes
import json
from dataclasses import dataclass
from functools import cache

from gankernels._nvrtc import load_from_wheels

from . import paths


class CompileError(Exception):
    """NVRTC refused a source; the message is its log."""


@dataclass(frozen=True)
class Compiled:
    """One instantiation: its PTX (for compute_ targets) or cubin (for sm_ targets), and its mangled name."""

    ptx: str
    cubin: bytes
    symbol: str


@cache
def _library():
    return ctypes.CDLL(str(load_from_wheels()))


def missing():
    """Why NVRTC cannot be used here, or None."""
    needed = ("lib/libnvrtc.so.*", "lib/libnvrtc-builtins.so.*", "include/cuda_fp16.h")
    if all(paths.wheel_file(pattern) for pattern in needed):
        return None
    return "NVRTC is not installed: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime"


@cache
def version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _blob(program, what):
    size = ctypes.c_size_t()
    if getattr(_library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)) or not size.value:
        return b""
    data = ctypes.create_string_buffer(size.value)
    getattr(_library(), f"nvrtcGet{what}")(program, data)
    return data.raw


def _compile(source, name, arch, includes):
    library, program = _library(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        library.nvrtcAddNameExpression(program, name.encode())
        cuda = paths.wheel_file("include/cuda_fp16.h").rsplit("/", 1)[0]
        options = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-I{path}" for path in (*includes, cuda))]
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), array)
        log = _blob(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise CompileError(f"{name} for {arch}:\n{log}")
        symbol = ctypes.c_char_p()
        if library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(symbol)):
            raise CompileError(f"{name} is no kernel of this source")
        return Compiled(_blob(program, "PTX").rstrip(b"\0").decode(), _blob(program, "CUBIN"), symbol.value.decode())
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compile(source, name, arch, includes):
    """The instantiation `name` ("gk::scaled_add<float, 4>") of a source file, for "compute_80" or "sm_80".

    Cached on disk by the content of every header in `includes`. Raises CompileError with NVRTC's log.
    """
    key = paths.digest(source, name, arch, version(), *paths.headers(includes))
    stem = paths.cache() / f"nvrtc-{key}"
    text, binary = stem.with_suffix(".json"), stem.with_suffix(".cubin")
    if text.exists() and binary.exists():
        saved = json.loads(text.read_text())
        return Compiled(saved["ptx"], binary.read_bytes(), saved["symbol"])
    result = _compile(source.read_text(), name, arch, [*includes, source.parent])
    paths.replace(binary, result.cubin)
    paths.replace(text, json.dumps({"ptx": result.ptx, "symbol": result.symbol}).encode())
    return result
