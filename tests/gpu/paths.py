"""Where sources, compilers' libraries and cached results lie."""

import os
import tempfile
from pathlib import Path

from gankernels._nvrtc import digest, headers, replace, wheel_file

__all__ = ["CSRC", "EXAMPLE", "ROOT", "cache", "digest", "headers", "replace", "wheel_file"]

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
