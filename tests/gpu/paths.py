"""Where sources, compilers' libraries and cached results lie."""

import glob
import hashlib
import os
import site
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
EXAMPLE = Path(__file__).resolve().parent / "example"


def cache():
    """The folder for compiled test artefacts; GANKERNELS_TEST_CACHE overrides it."""
    folder = Path(
        os.environ.get("GANKERNELS_TEST_CACHE") or Path(tempfile.gettempdir()) / f"gankernels-gpu-{os.getuid()}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*parts):
    """A hash of strings, bytes and paths (by content)."""
    state = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part if isinstance(part, bytes) else str(part).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


def replace(path, data):
    """Writes a file so that no reader ever sees half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def wheel_file(pattern):
    """The first file that matches under the installed `nvidia` wheels, or None."""
    roots = [*sys.path, *site.getsitepackages(), sysconfig.get_path("purelib")]
    for root in roots:
        if found := sorted(glob.glob(os.path.join(root, "nvidia", "*", pattern))):
            return found[0]
    return None


def sources(folders):
    """Every C++ and CUDA header under the folders, sorted: what a compilation may depend on."""
    found = {path for folder in folders for suffix in ("h", "cuh") for path in Path(folder).rglob(f"*.{suffix}")}
    return sorted(found)
