"""The compiled sums over a sample as PyTorch sees them: their shapes without data, and their batching under vmap.

The schemas and derivatives of the C++ operators are in csrc/per_sample_autograd.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check


def _sums(x: Tensor, *_) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))


def _whole(x: Tensor, *_) -> Tensor:
    return torch.empty_like(x, memory_format=_check.kept_format(x))


def _norm_backward(g: Tensor, x: Tensor, norm: Tensor) -> Tensor:
    return _whole(x)


def _norm_double_backward(v: Tensor, g: Tensor, x: Tensor, norm: Tensor, wanted) -> tuple[Tensor, Tensor]:
    return _sums(x) if wanted[0] else g.new_empty(0), _whole(x) if wanted[1] else x.new_empty(0)


_FAKES = {
    "sum_squares_per_sample": _sums,
    "norm_per_sample": _sums,
    "dot_per_sample": _sums,
    "scale_per_sample": _whole,
    "norm_per_sample_backward": _norm_backward,
    "norm_per_sample_double_backward": _norm_double_backward,
}


def _into_samples(op):
    """A vmap rule: the mapped dimension makes more samples."""

    def rule(info, in_dims, *args):
        batch = info.batch_size

        def fold(t, dim):
            if not isinstance(t, Tensor):
                return t
            return (t.expand(batch, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)

        def unfold(t):
            return t.reshape(batch, t.shape[0] // batch, *t.shape[1:])

        out = op(*(fold(t, dim) for t, dim in zip(args, in_dims, strict=True)))
        if isinstance(out, Tensor):
            return unfold(out), 0
        return tuple(map(unfold, out)), (0,) * len(out)

    return rule


def _register_rules(namespace: str) -> None:
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", _into_samples(getattr(getattr(torch.ops, namespace), name)))


if _backend.native_error is None:
    _register_rules("gankernels_native")
