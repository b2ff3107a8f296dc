"""The compiled sums over a sample as PyTorch sees them: shapes without data, batching under vmap, Triton's derivatives.

The schemas and derivatives of the C++ operators are in csrc/per_sample_autograd.cpp; Triton's are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
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


_SCHEMAS = {
    "sum_squares_per_sample": "(Tensor x) -> Tensor",
    "norm_per_sample": "(Tensor x) -> Tensor",
    "dot_per_sample": "(Tensor a, Tensor b, float factor) -> Tensor",
    "scale_per_sample": "(Tensor x, Tensor f, float factor) -> Tensor",
    "norm_per_sample_backward": "(Tensor g, Tensor x, Tensor norm) -> Tensor",
    "norm_per_sample_double_backward": (
        "(Tensor v, Tensor g, Tensor x, Tensor norm, bool[2] wanted) -> (Tensor, Tensor)"
    ),
}


def _launcher(name: str):
    def run(*args):
        from gankernels.triton import per_sample as kernels

        return getattr(kernels, name)(*args)

    return run


for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"gankernels::{_name}", _schema)
    torch.library.impl(f"gankernels::{_name}", "CompositeExplicitAutograd")(_launcher(_name))
_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")

_ops = torch.ops.gankernels


def triton(name: str):
    """The operator that Triton runs, looked up when called."""
    return lambda *args: getattr(_ops, name)(*args)


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    *tensors, ctx.factor = inputs if isinstance(inputs[-1], float) else (*inputs, None)
    ctx.save_for_backward(*tensors)


def _save_norm(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], output)


def _save_double(ctx, inputs, output):
    *tensors, ctx.wanted = inputs
    ctx.save_for_backward(*tensors)


def _sum_squares_backward(ctx, g):
    return None if g is None else _ops.scale_per_sample(ctx.saved_tensors[0], g, 2.0)


def _dot_backward(ctx, g):
    if g is None:
        return None, None, None
    a, b = ctx.saved_tensors
    want_a, want_b = _pruning.wanted(ctx, True, True)
    ga = _ops.scale_per_sample(b, g, ctx.factor) if want_a else None
    return ga, _ops.scale_per_sample(a, g, ctx.factor) if want_b else None, None


def _scale_backward(ctx, v):
    if v is None:
        return None, None, None
    x, f = ctx.saved_tensors
    want_x, want_f = _pruning.wanted(ctx, True, True)
    gx = _ops.scale_per_sample(v, f, ctx.factor) if want_x else None
    return gx, _ops.dot_per_sample(x, v, ctx.factor) if want_f else None, None


def _norm_first(ctx, g):
    x, norm = ctx.saved_tensors
    return None if g is None else _ops.norm_per_sample_backward(g, x, norm)


def _norm_second(ctx, v):
    g, x, norm = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, True)
    if v is None or not any(wanted):
        return None, None, None
    if torch.is_grad_enabled():
        gg, gx = _composed(v, g, x, norm)
    else:
        gg, gx = _ops.norm_per_sample_double_backward(v, g, x, norm, wanted)
    return gg if wanted[0] else None, gx if wanted[1] else None, None


def _composed(v, g, x, norm):
    """norm_per_sample_double_backward of differentiable parts, through the norm's own node."""
    zero = norm == 0
    inverse = norm.masked_fill(zero, 1).reciprocal().masked_fill(zero, 0)
    along, slope = _ops.dot_per_sample(v, x, 1.0) * inverse, g * inverse
    return along, _ops.scale_per_sample(v, slope, 1.0) + _ops.scale_per_sample(x, slope * along * inverse, -1.0)


def _norm_third(ctx, h, w):
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        outputs = [o for o, wanted in zip(_composed(*inputs), ctx.wanted, strict=True) if wanted]
        cotangents = [c for c, wanted in zip((h, w), ctx.wanted, strict=True) if wanted]
        if not outputs:
            return (None,) * 5
        grads = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    return (*grads, None)


for _name, _backward, _setup in (
    ("sum_squares_per_sample", _sum_squares_backward, _save),
    ("norm_per_sample", _norm_first, _save_norm),
    ("dot_per_sample", _dot_backward, _save),
    ("scale_per_sample", _scale_backward, _save),
    ("norm_per_sample_backward", _norm_second, _save),
    ("norm_per_sample_double_backward", _norm_third, _save_double),
):
    torch.library.register_autograd(f"gankernels::{_name}", _backward, setup_context=_setup)
