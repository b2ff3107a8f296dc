"""CUDA sources to code for one GPU by NVRTC, through CuPy's binding of it; kept on disk.

For installations without nvcc. `compile` gives what `_launch` hands to cupy.RawModule. Nothing here needs a GPU.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import importlib.util
import json
import os
import site
import sys
import sysconfig
import tempfile
import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from gankernels._shipped import shipped

INSTALL = "pip install 'gankernels[cupy]'"
if (torch.version.cuda or "").startswith("12."):
    INSTALL = "pip install cupy-cuda12x"  # NVRTC and headers of 12 come with such a torch
OPTIONS = ("--std=c++17",)

missing: str | None = None
"""Why kernels cannot be compiled when they first run, so far as a look at what is installed tells; None if they can."""
if torch.version.hip:
    missing = "torch is a ROCm build"
elif not importlib.util.find_spec("cupy"):
    missing = "CuPy is not installed"


class CompileError(RuntimeError):
    """NVRTC refused a source; the message holds its log."""


@dataclass(frozen=True)
class Compiled:
    """One instantiation: a cubin or PTX file, and the kernel's mangled name in it."""

    path: Path
    symbol: str


def sources() -> Path:
    """The folder of the CUDA sources."""
    return shipped("csrc", "cuda/launch.h")


def headers(folders: Iterable[Path | str]) -> list[Path]:
    """Every C++ and CUDA header under the folders, sorted: what a compilation may depend on."""
    return sorted({path for folder in folders for end in ("h", "cuh") for path in Path(folder).rglob(f"*.{end}")})


def digest(*parts: object) -> str:
    """A hash of strings, bytes and paths (by content)."""
    state = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part if isinstance(part, bytes) else str(part).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


def replace(path: Path, data: bytes) -> None:
    """Writes a file so that no reader, in any process, ever sees half of it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def wheel_file(pattern: str) -> str | None:
    """The first file that matches under the installed `nvidia` wheels, or None."""
    for root in [*sys.path, *site.getsitepackages(), sysconfig.get_path("purelib")]:
        if found := sorted(glob.glob(os.path.join(root, "nvidia", "*", pattern))):
            return found[0]
    return None


@cache
def cuda_headers() -> Path:
    """The folder of cuda_fp16.h and its kin: of the wheels beside torch, else of a toolkit that CuPy or we find."""
    if found := wheel_file("include/cuda_fp16.h"):
        return Path(found).parent
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), cupy().cuda.get_cuda_path(), "/usr/local/cuda"]
    for home in filter(None, homes):
        if (Path(home) / "include" / "cuda_fp16.h").is_file():
            return Path(home) / "include"
    raise FileNotFoundError(
        "CUDA's headers (cuda_fp16.h) were not found: pip install nvidia-cuda-runtime, or set CUDA_HOME to a toolkit"
    )


def cupy() -> ModuleType:
    """CuPy, or a ModuleNotFoundError or ImportError that says what to do."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise ModuleNotFoundError(f"CuPy is not installed: {INSTALL}", name="cupy") from error
    return cupy


def load_from_wheels() -> Path:
    """Load NVRTC from its wheel, for who looks for it by name; ModuleNotFoundError where there is none."""
    library, builtins = wheel_file("lib/libnvrtc.so.*"), wheel_file("lib/libnvrtc-builtins.so.*")
    if not library or not builtins:
        raise ModuleNotFoundError("NVRTC is not installed: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
    ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)  # NVRTC opens it by name, which its folder is not on the path for
    ctypes.CDLL(library)
    return Path(library)


@cache
def _binding() -> ModuleType:
    """CuPy's binding of NVRTC, with the library found."""
    nvrtc = cupy().cuda.nvrtc
    try:
        nvrtc.getVersion()
    except RuntimeError:  # CuPy looks in fewer places than wheels can lie in
        load_from_wheels()
        nvrtc.getVersion()
    return nvrtc


def version() -> str:
    """NVRTC's version, as CuPy finds it."""
    return ".".join(map(str, _binding().getVersion()))


def target(capability: str, supported: Sequence[int]) -> tuple[str, str]:
    """NVRTC's architecture for a GPU ("90"), and the kind of code: a cubin, or PTX where the GPU is the newer one.

    A cubin needs no compilation by the driver, so also runs where the driver is older than NVRTC.
    """
    number = int(capability)
    if number in supported:
        return f"sm_{number}", "cubin"
    older = [s for s in supported if s < number]
    if not older:
        raise CompileError(f"this GPU has compute capability {capability}; NVRTC {version()} needs {min(supported)}")
    return f"compute_{max(older)}", "ptx"


def folder() -> Path:
    """Where compiled kernels are kept: $GANKERNELS_CACHE, else gankernels in the user's cache folder."""
    if given := os.environ.get("GANKERNELS_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gankernels"


@cache
def _temporary() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="gankernels-")  # removed when the process ends


def compile(op: str, kernel: str, capability: str, root: Path | None = None) -> Compiled:
    """The instantiation `kernel` ("gk::bias_act_map<float, 0>") of cuda/<op>.cuh for a compute capability ("90").

    Kept on disk under a hash of every source, CUDA's 16-bit headers, the options, the target and NVRTC's version.
    Processes may do this at once. Where the folder cannot be written to, a warning says so and the code lies in a
    temporary one.

    Raises: CompileError with NVRTC's log; ImportError, RuntimeError or FileNotFoundError for what is not installed.
    """
    root = sources() if root is None else root
    source, library = root / "cuda" / f"{op}.cuh", cuda_headers()
    arch, kind = target(capability, _binding().getSupportedArchs())
    key = digest(op, kernel, arch, *OPTIONS, version(), *headers([root]), *sorted(library.glob("cuda_[bf][fp]16.h*")))
    folders = [folder(), Path(_temporary().name)] if _temporary.cache_info().currsize else [folder()]
    for kept in folders:
        if found := _read(kept, key):
            return found
    image, symbol = _compile(source, kernel, arch, kind, [root, root / "cuda", library])
    try:
        return _write(folder(), key, image, symbol, kind)
    except OSError as error:
        warnings.warn(
            f"kernels that were compiled now cannot be kept in {folder()} ({error}); every process will compile them "
            "again. Set GANKERNELS_CACHE to a folder that can be written to",
            stacklevel=2,
        )
        return _write(Path(_temporary().name), key, image, symbol, kind)


def _read(kept: Path, key: str) -> Compiled | None:
    """What was kept under a key, if it is whole."""
    try:
        entry = json.loads((kept / f"{key}.json").read_text())
        path = kept / entry["file"]
        if digest(path) == entry["digest"]:
            return Compiled(path, entry["symbol"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or truncated by a full disk or a crash: it is made anew
    return None


def _write(kept: Path, key: str, image: bytes, symbol: str, kind: str) -> Compiled:
    kept.mkdir(parents=True, exist_ok=True)
    # The code's name holds its hash: an entry of another process never comes to stand beside code that is not its own.
    path = kept / f"{key}-{digest(image)}.{kind}"
    replace(path, image)
    entry = {"file": path.name, "digest": digest(image), "symbol": symbol}
    replace(kept / f"{key}.json", json.dumps(entry).encode())
    return Compiled(path, symbol)


def _compile(source: Path, kernel: str, arch: str, kind: str, includes: Sequence[Path]) -> tuple[bytes, str]:
    nvrtc = _binding()
    options = (f"--gpu-architecture={arch}", *OPTIONS, *(f"-I{path}" for path in includes))
    program = nvrtc.createProgram(source.read_text(), source.name, (), ())
    try:
        nvrtc.addNameExpression(program, kernel)
        try:
            nvrtc.compileProgram(program, options)
            symbol = nvrtc.getLoweredName(program, kernel)
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).strip()
            raise CompileError(f"{kernel} of {source.name} for {arch}: {error}\n{log}") from error
        image = nvrtc.getCUBIN(program) if kind == "cubin" else nvrtc.getPTX(program)
    finally:
        nvrtc.destroyProgram(program)
    return image, symbol


def describe() -> str:
    """What would compile and run the CUDA kernels of an extension built without nvcc, for `gankernels doctor`."""
    try:
        return (
            f"compiled when first run: CuPy {cupy().__version__}, NVRTC {version()}, headers in {cuda_headers()}, "
            f"kept in {folder()}"
        )
    except (ImportError, RuntimeError, OSError) as error:
        return f"cannot be compiled when first run: {' '.join(str(error).split())}"
