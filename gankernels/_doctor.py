"""What this machine can run: `gankernels doctor`."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from importlib import metadata

import torch

from gankernels import _backend, _nvrtc
from gankernels._version import __version__


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cupy() -> str:
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        if _version(name) != "not installed":
            return f"{_version(name)} ({name})"
    return "found, of unknown origin" if importlib.util.find_spec("cupy") else "not installed"


def _nvcc() -> str:
    path = shutil.which("nvcc")
    if not path:
        return "not found"
    out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = [part.strip() for part in out.replace("\n", ",").split(",") if part.strip().startswith("release")]
    return f"{release[0] if release else 'of unknown release'} ({path})"


def facts() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none visible"
    info = {
        "gankernels": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'not built in'})",
        "triton": _version("triton"),
        "cupy": _cupy(),
        "nvcc": _nvcc(),
        "GPU": gpu,
    }
    if _backend.native_error:
        info["extension"] = _backend.native_error
    else:
        from gankernels import _C

        built = _C.build_info()
        info["extension"] = f"{built['compiler']}, CUDA {built['cuda']}, OpenMP {built['openmp']}"
        info["CPU kernels"] = f"{_C.cpu_capability()}, {torch.get_num_threads()} threads"
        info["CUDA kernels"] = "compiled by nvcc" if _backend.cuda_built else _nvrtc.describe()
    return info


def table() -> list[tuple[str, dict[str, str]]]:
    """Per operator, what each backend can do here: "usable", or why not."""
    rows = []
    for op, kernels in _backend.operators().items():
        cells = {}
        for name in _backend.NAMES:
            if name not in kernels:
                cells[name] = "no kernel"
                continue
            device = "cuda" if name in ("cuda", "triton") else "cpu"
            reason = _backend.why_not(name, device, op)
            if reason is None and device == "cuda" and not torch.cuda.is_available():
                reason = "no GPU"
            cells[name] = "usable" if reason is None else reason
        rows.append((op, cells))
    return rows


def report() -> str:
    lines = [f"{name + ':':<14}{value}" for name, value in facts().items()]
    rows = table()
    reasons = sorted({c for _, cells in rows for c in cells.values() if c not in ("usable", "no kernel", "no GPU")})
    marks = {reason: f"no ({i + 1})" for i, reason in enumerate(reasons)}
    width = 2 + max(len(op) for op, _ in rows)
    lines += ["", f"{'operator':<{width}}" + "".join(f"{name:<12}" for name in _backend.NAMES)]
    for op, cells in rows:
        lines.append(f"{op:<{width}}" + "".join(f"{marks.get(cells[n], cells[n]):<12}" for n in _backend.NAMES))
    lines += [f"({i + 1}) {reason}" for i, reason in enumerate(reasons)]
    if not torch.cuda.is_available():
        lines += ["", "Unproven here: the speed of GPU kernels, and their results on silicon (no GPU is visible)."]
        if on_torch := [op for op, _ in rows if _backend.cuda_is_torch(op)]:
            lines.append(f"{', '.join(on_torch)} on cuda are PyTorch's kernels (cuDNN): none of those has run here.")
        if not _backend.cuda_built and _nvrtc.missing is None:
            lines.append("Unproven here: CuPy's launch of CUDA kernels; what comes before it is tested without a GPU.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
