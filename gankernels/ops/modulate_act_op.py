"""The compiled modulate_act as PyTorch sees it: its shapes without data, and its batching under vmap.

The schemas and derivatives are C++ (csrc/modulate_act_autograd.cpp).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check

_ops = torch.ops.gankernels_native


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=_check.kept_format(x))


def _value(x, scale, noise, bias, act, alpha, gain, clamp):
    return _like(x)


def _value_in_place(x, scale, noise, bias, act, alpha, gain, clamp):
    return None


def _sums(g: Tensor, noise: Tensor | None, wanted) -> tuple[Tensor, ...]:
    """Gradients of scale, noise and bias."""
    n, c = g.shape[:2]
    kind = torch.promote_types(g.dtype, torch.float32)
    shapes = ((n, c), (0,) if noise is None else noise.shape, (c,))
    return tuple(g.new_empty(s if w else (0,), dtype=kind) for s, w in zip(shapes, wanted, strict=True))


def _backward(g, x, scale, noise, bias, act, alpha, gain, clamp, wanted):
    gx = _like(g if x is None else x) if wanted[0] else g.new_empty(0)
    return (gx, *_sums(g, noise, wanted[1:]))


def _double_backward(g, x, scale, noise, bias, h, h_scale, h_noise, h_bias, act, alpha, gain, clamp, wanted):
    like = g if x is None else x
    images = (_like(like) if w else g.new_empty(0) for w in wanted[:2])
    return (*images, *_sums(g, noise, wanted[2:]))


def _power(weight):
    return weight.new_empty(weight.shape[:2], dtype=torch.promote_types(weight.dtype, torch.float32))


def _one(t, dim, i):
    return t if dim is None or t is None else t.select(dim, i)


def _one_by_one(op):
    """A vmap rule for results that are summed over samples: each has its own."""

    def rule(info, in_dims, *args):
        each = [op(*map(_one, args, in_dims, [i] * len(args))) for i in range(info.batch_size)]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])

    return rule


def _folded(t, dim, batch):
    """[batch * N, ...]."""
    t = t.expand(batch, *t.shape) if dim is None else t.movedim(dim, 0)
    return t.flatten(0, 1)


def _value_rule(info, in_dims, x, scale, noise, bias, *numbers):
    batch = info.batch_size
    if in_dims[3] is not None:
        args = (x, scale, noise, bias, *numbers)
        return torch.stack([_ops.modulate_act(*map(_one, args, in_dims, [i] * len(args))) for i in range(batch)]), 0
    x = _folded(x, in_dims[0], batch)
    if scale is not None:
        scale = _folded(scale, in_dims[1], batch)
    if noise is not None and (in_dims[2] is not None or noise.shape[0] > 1):
        noise = noise.expand(batch, *noise.shape) if in_dims[2] is None else noise.movedim(in_dims[2], 0)
        noise = noise.expand(batch, x.shape[0] // batch, *noise.shape[2:]).flatten(0, 1)
    y = _ops.modulate_act(x, scale, noise, bias, *numbers)
    return y.unflatten(0, (batch, y.shape[0] // batch)), 0


def _power_rule(info, in_dims, weight):
    y = _ops.weight_power(_folded(weight, in_dims[0], info.batch_size))
    return y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size)), 0


if _backend.native_error is None:
    torch.library.register_fake("gankernels_native::modulate_act", _value)
    torch.library.register_fake("gankernels_native::modulate_act_", _value_in_place)
    torch.library.register_fake("gankernels_native::modulate_act_backward", _backward)
    torch.library.register_fake("gankernels_native::modulate_act_double_backward", _double_backward)
    torch.library.register_fake("gankernels_native::weight_power", _power)
    torch.library.register_vmap("gankernels_native::modulate_act", _value_rule)
    torch.library.register_vmap("gankernels_native::modulate_act_backward", _one_by_one(_ops.modulate_act_backward))
    torch.library.register_vmap(
        "gankernels_native::modulate_act_double_backward", _one_by_one(_ops.modulate_act_double_backward)
    )
    torch.library.register_vmap("gankernels_native::weight_power", _power_rule)
