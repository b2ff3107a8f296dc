"""What an operator tells PyTorch in Python alone: Triton's schemas and launchers, vmap one by one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gankernels import _backend


def define(module: str, schemas: Mapping[str, tuple[str, str]]) -> None:
    """gankernels::`name` of `schema`, run by `launcher` of gankernels.triton.`module`: {name: (schema, launcher)}."""
    for name, (schema, launcher) in schemas.items():
        torch.library.define(f"gankernels::{name}", schema)
        torch.library.impl(f"gankernels::{name}", "CompositeExplicitAutograd")(_lazily(module, launcher))


def _lazily(module: str, launcher: str) -> Callable:
    def run(*args):
        return getattr(importlib.import_module(f"gankernels.triton.{module}"), launcher)(*args)

    return run


def register(rules: Mapping[str, tuple[Callable, Callable]]) -> None:
    """Of Triton's operators and the compiled ones: {name: (fake, what makes a vmap rule of the operator)}."""
    for namespace in ("gankernels", "gankernels_native")[: 1 if _backend.native_error else 2]:
        for name, (fake, rule) in rules.items():
            torch.library.register_fake(f"{namespace}::{name}", fake)
            operator = getattr(getattr(torch.ops, namespace), name)
            torch.library.register_vmap(f"{namespace}::{name}", rule(operator))


def one_by_one(operator: Callable) -> Callable:
    """A vmap rule for results that are summed over samples: each call has its own."""

    def rule(info, in_dims, *args):
        def one(t, dim, i):
            return t if dim is None or t is None else t.select(dim, i)

        each = [operator(*map(one, args, in_dims, [i] * len(args))) for i in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])

    return rule


def in_front(t: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """`t` with the mapped dimension in front."""
    if t is None:
        return None
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
