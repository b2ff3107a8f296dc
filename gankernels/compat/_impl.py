"""What the published arguments mean here."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import gankernels


def backend(impl: str) -> AbstractContextManager:
    """The backend that `impl` asks for: "ref" is "reference"; "cuda", their default, is automatic choice.

    Raises: ValueError for another word.
    """
    if impl == "ref":
        return gankernels.backend("reference")
    if impl == "cuda":
        return contextlib.nullcontext()
    raise ValueError(f"impl is {impl!r}, expected 'ref' (plain PyTorch) or 'cuda' (the fastest that runs)")


def warm_up() -> bool:
    """Their `_init`: there is nothing to compile."""
    return True
