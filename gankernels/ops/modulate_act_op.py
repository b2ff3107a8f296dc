"""modulate_act as PyTorch sees it: its shapes without data, its batching under vmap, and Triton's operators.

The compiled ones' schemas and derivatives are C++ (csrc/modulate_act_autograd.cpp); Triton's are the same in Python.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check


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


def _value_rule(op):
    def rule(info, in_dims, x, scale, noise, bias, *numbers):
        batch = info.batch_size
        if in_dims[3] is not None:
            args = (x, scale, noise, bias, *numbers)
            return torch.stack([op(*map(_one, args, in_dims, [i] * len(args))) for i in range(batch)]), 0
        x = _folded(x, in_dims[0], batch)
        if scale is not None:
            scale = _folded(scale, in_dims[1], batch)
        if noise is not None and (in_dims[2] is not None or noise.shape[0] > 1):
            noise = noise.expand(batch, *noise.shape) if in_dims[2] is None else noise.movedim(in_dims[2], 0)
            noise = noise.expand(batch, x.shape[0] // batch, *noise.shape[2:]).flatten(0, 1)
        y = op(x, scale, noise, bias, *numbers)
        return y.unflatten(0, (batch, y.shape[0] // batch)), 0

    return rule


def _power_rule(op):
    def rule(info, in_dims, weight):
        y = op(_folded(weight, in_dims[0], info.batch_size))
        return y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size)), 0

    return rule


_NUMBERS = "str act, float alpha, float gain, float clamp"
_GIVEN = "Tensor? scale, Tensor? noise, Tensor? bias"
_SCHEMAS = {
    "modulate_act": f"(Tensor x, {_GIVEN}, {_NUMBERS}) -> Tensor",
    "modulate_act_backward": (
        f"(Tensor g, Tensor? x, {_GIVEN}, {_NUMBERS}, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "modulate_act_double_backward": (
        f"(Tensor g, Tensor? x, {_GIVEN}, Tensor? h, Tensor? h_scale, Tensor? h_noise, Tensor? h_bias, {_NUMBERS}, "
        "bool[5] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "weight_power": "(Tensor weight) -> Tensor",
}
_RULES = {
    "modulate_act": (_value, _value_rule),
    "modulate_act_backward": (_backward, _one_by_one),
    "modulate_act_double_backward": (_double_backward, _one_by_one),
    "weight_power": (_power, _power_rule),
}


def _launcher(name: str):
    def run(*args):
        from gankernels.triton import modulate_act as kernels

        return getattr(kernels, name)(*args)

    return run


def _register_rules(namespace: str) -> None:
    for name, (fake, rule) in _RULES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", rule(getattr(getattr(torch.ops, namespace), name)))


for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"gankernels::{_name}", _schema)
    _kernel = "value" if _name == "modulate_act" else _name.removeprefix("modulate_act_")
    torch.library.impl(f"gankernels::{_name}", "CompositeExplicitAutograd")(_launcher(_kernel))
torch.library.define("gankernels::modulate_act_", f"(Tensor(a!) x, {_GIVEN}, {_NUMBERS}) -> ()")
torch.library.impl("gankernels::modulate_act_", "CompositeExplicitAutograd")(_launcher("value_in_place"))
_register_rules("gankernels")
torch.library.register_fake("gankernels::modulate_act_", _value_in_place)
if _backend.native_error is None:
    _register_rules("gankernels_native")
    torch.library.register_fake("gankernels_native::modulate_act_", _value_in_place)

_ops = torch.ops.gankernels


def triton(*args) -> Tensor:
    return _ops.modulate_act(*args)


def _asked_for(gradients, wanted):
    return [g if w else None for g, w in zip(gradients, wanted, strict=True)]


def _save(ctx, inputs, output):
    *given, act, alpha, gain, clamp = inputs
    ctx.numbers, ctx.bare = (act, alpha, gain, clamp), act == "linear" and clamp < 0
    # x serves the slope and the scale's gradient: without either no image is kept.
    keeps_x = not ctx.bare or ctx.needs_input_grad[1]
    ctx.save_for_backward(given[0] if keeps_x else None, *given[1:])


def _first(ctx, g):
    x, *numbers = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, *(t is not None for t in numbers))
    if not any(wanted):
        return (None,) * 8
    x = x if not ctx.bare or wanted[1] else None
    return (*_asked_for(_ops.modulate_act_backward(g, x, *numbers, *ctx.numbers, wanted), wanted), *[None] * 4)


def _save_first(ctx, inputs, output):
    *given, act, alpha, gain, clamp, wanted = inputs
    ctx.numbers = (act, alpha, gain, clamp)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    ctx.save_for_backward(*given)


def _second(ctx, *cotangents):
    wanted = _pruning.wanted(ctx, *(t is not None for t in ctx.saved_tensors))
    if all(h is None for h in cotangents) or not any(wanted):
        return (None,) * 10
    args = (*ctx.saved_tensors, *cotangents, *ctx.numbers, wanted)
    return (*_asked_for(_ops.modulate_act_double_backward(*args), wanted), *[None] * 5)


def _no_third_order(ctx, *_):
    raise RuntimeError(
        "modulate_act: the third derivative is not supported by the compiled backends; use "
        "gankernels.backend('reference')"
    )


def _save_weight(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _of_weight(ctx, g):
    return _ops.modulate_act(ctx.saved_tensors[0], 2 * g, None, None, "linear", 0.0, 1.0, -1.0)


torch.library.register_autograd("gankernels::modulate_act", _first, setup_context=_save)
torch.library.register_autograd("gankernels::modulate_act_backward", _second, setup_context=_save_first)
torch.library.register_autograd("gankernels::modulate_act_double_backward", _no_third_order)
torch.library.register_autograd("gankernels::weight_power", _of_weight, setup_context=_save_weight)
