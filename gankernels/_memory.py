"""The C library's allocator, told to keep what is freed: for our own processes, never for a library's user."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_* of malloc.h


def keep_freed_memory() -> bool:
    """Let glibc reuse large freed blocks instead of giving each back and fetching fresh, zeroed pages again.

    A loop that times one operator fetches and gives back its output every time, and the page faults of 10 MB can cost
    more than the operator; a training run's heap has grown past that, so a timing without this tells less about it.
    Holds for the whole process: the demonstration and the benchmarks call it, `import gankernels` does not. Returns
    whether it took effect (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(what, 2**30) for what in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
