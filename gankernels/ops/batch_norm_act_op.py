"""The compiled normalisations as PyTorch sees them: shapes without data, batching under vmap, Triton's derivatives.

The schemas and derivatives of the C++ operators are in csrc/batch_norm_act_autograd.cpp; Triton's are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check


def _fake(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain):
    per_channel = x.new_empty(x.shape[1], dtype=_sums_dtype(x))
    y = torch.empty_like(x, memory_format=_check.kept_format(x))
    return y, per_channel, torch.empty_like(per_channel), torch.empty_like(per_channel)


def _fake_instance(x, weight, bias, eps, act, alpha, gain):
    per_cell = x.new_empty(x.shape[:2], dtype=_sums_dtype(x))
    return _fake_whole(x, True), per_cell, torch.empty_like(per_cell)


def _fake_statistics(x, eps):
    per_cell = x.new_empty(x.shape[:2], dtype=_sums_dtype(x))
    return per_cell, torch.empty_like(per_cell)


def _fake_backward(gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted):
    return _fake_whole(x, wanted[0]), *_fake_parameters(x, weight, bias, wanted[1:])


def _fake_double_backward(v, p, q, gy, x, weight, bias, mean, invstd, training, act, alpha, gain, wanted):
    return _fake_whole(x, wanted[0]), _fake_whole(x, wanted[1]), *_fake_parameters(x, weight, bias, wanted[2:])


def _sums_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_whole(x, wanted):
    return torch.empty_like(x, memory_format=_check.kept_format(x)) if wanted else x.new_empty(0)


def _fake_parameters(x, weight, bias, wanted):
    def one(t, wanted):
        if not wanted:
            return x.new_empty(0, dtype=_sums_dtype(x) if t is None else t.dtype)
        return _fake_whole(x, True) if t.ndim > 2 else torch.empty_like(t, memory_format=torch.contiguous_format)

    return [one(t, w) for w, t in zip(wanted, (weight, bias), strict=True)]


def _by_channels(op):
    """A vmap rule: the mapped dimension becomes more channels, of which each is normalised by itself."""

    def rule(info, in_dims, *args):
        b = info.batch_size

        def fold(t, dim):
            if not isinstance(t, Tensor):
                return t
            t = t.expand(b, *t.shape) if dim is None else t.movedim(dim, 0)
            return t.flatten(0, 1) if t.ndim == 2 else t.movedim(0, 1).flatten(1, 2)

        outs = op(*(fold(t, dim) for t, dim in zip(args, in_dims, strict=True)))
        back = [o.reshape(b, o.numel() // b) if o.ndim == 1 else o.unflatten(1, (b, -1)) for o in outs]
        return tuple(back), tuple(min(o.ndim - 1, 1) for o in outs)

    return rule


_SETTINGS = "str act, float alpha, float gain"
_PARAMETERS = "Tensor? weight, Tensor? bias"
torch.library.define(
    "gankernels::batch_norm_act",
    f"(Tensor x, {_PARAMETERS}, Tensor? running_mean, Tensor? running_var, bool training, float eps, {_SETTINGS}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "gankernels::instance_norm_act", f"(Tensor x, {_PARAMETERS}, float eps, {_SETTINGS}) -> (Tensor, Tensor, Tensor)"
)
torch.library.define("gankernels::instance_statistics", "(Tensor x, float eps) -> (Tensor, Tensor)")
torch.library.define(
    "gankernels::batch_norm_act_backward",
    f"(Tensor gy, Tensor x, {_PARAMETERS}, Tensor mean, Tensor invstd, bool training, {_SETTINGS}, bool[3] wanted) "
    "-> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "gankernels::batch_norm_act_double_backward",
    f"(Tensor? v, Tensor? p, Tensor? q, Tensor gy, Tensor x, {_PARAMETERS}, Tensor mean, Tensor invstd, "
    f"bool training, {_SETTINGS}, bool[4] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("gankernels::batch_norm_act", "CompositeExplicitAutograd")
def _run(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.forward(*args)


@torch.library.impl("gankernels::instance_norm_act", "CompositeExplicitAutograd")
def _run_instance(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.instance(*args)


@torch.library.impl("gankernels::instance_statistics", "CompositeExplicitAutograd")
def _run_statistics(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.statistics(*args)


@torch.library.impl("gankernels::batch_norm_act_backward", "CompositeExplicitAutograd")
def _run_backward(*args):
    from gankernels.triton import batch_norm_act as kernels

    return kernels.backward(*args)


@torch.library.impl("gankernels::batch_norm_act_double_backward", "CompositeExplicitAutograd")
def _run_double_backward(*args):
    from gankernels.triton import batch_norm_act_second as kernels

    return kernels.double_backward(*args)


def _setup(ctx, inputs, output):
    x, weight, bias, _, _, training, _, *numbers = inputs
    _keep(ctx, x, weight, bias, output, (training, *numbers))


def _setup_instance(ctx, inputs, output):
    x, weight, bias, _, *numbers = inputs
    _keep(ctx, x, weight, bias, output, (True, *numbers))


def _keep(ctx, x, weight, bias, output, numbers):
    _, mean, invstd, *_ = output
    ctx.numbers = numbers
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, bias, mean, invstd)


def _first(ctx, gy):
    """Gradients of x, weight and bias, None where they are not asked for."""
    x, weight, bias, mean, invstd = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, weight is not None, bias is not None)
    if gy is None or not any(wanted):
        return (None,) * 3
    args = (gy, x, weight, bias, mean, invstd, *ctx.numbers, wanted)
    return _asked_for(torch.ops.gankernels.batch_norm_act_backward(*args), wanted)


def _backward(ctx, gy, *_):
    return (*_first(ctx, gy), *[None] * 7)


def _backward_instance(ctx, gy, *_):
    return (*_first(ctx, gy), *[None] * 4)


def _setup_statistics(ctx, inputs, output):
    x, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x)


def _backward_statistics(ctx, g_mean, g_deviation):
    # (g_mean + g_deviation (x - mean) / deviation) / size is itself a normalisation, whose derivatives are its own.
    (x,) = ctx.saved_tensors
    if (g_mean is None and g_deviation is None) or not ctx.needs_input_grad[0]:
        return None, None
    size = math.prod(x.shape[2:])
    mean, deviation = (
        x.new_zeros(x.shape[:2], dtype=_sums_dtype(x)) if g is None else g / size for g in (g_mean, g_deviation)
    )
    return torch.ops.gankernels.instance_norm_act(x, deviation, mean, ctx.eps, "linear", 0.0, 1.0)[0], None


def _setup_backward(ctx, inputs, output):
    *tensors, training, act, alpha, gain, wanted = inputs
    ctx.numbers = (training, act, alpha, gain)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    ctx.save_for_backward(*tensors)


def _backward_backward(ctx, v, p, q):
    # mean and invstd have no gradient of their own: in training the formulas count them as functions of x.
    gy, x, weight, bias, mean, invstd = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, True, weight is not None, bias is not None)
    if v is p is q is None or not any(wanted):
        return (None,) * 11
    args = (v, p, q, gy, x, weight, bias, mean, invstd, *ctx.numbers, wanted)
    return (*_asked_for(torch.ops.gankernels.batch_norm_act_double_backward(*args), wanted), *[None] * 7)


def _asked_for(gradients, wanted):
    return [g if w else None for g, w in zip(gradients, wanted, strict=True)]


def _no_third_order(ctx, *_):
    raise RuntimeError(
        "batch_norm_act: the derivative of order 3 is not supported by the compiled backends; "
        "use gankernels.backend('reference') (its kernels are those of all normalisations)"
    )


torch.library.register_autograd("gankernels::batch_norm_act", _backward, setup_context=_setup)
torch.library.register_autograd("gankernels::instance_norm_act", _backward_instance, setup_context=_setup_instance)
torch.library.register_autograd(
    "gankernels::instance_statistics", _backward_statistics, setup_context=_setup_statistics
)
torch.library.register_autograd(
    "gankernels::batch_norm_act_backward", _backward_backward, setup_context=_setup_backward
)
torch.library.register_autograd("gankernels::batch_norm_act_double_backward", _no_third_order)

_FAKES = {
    "batch_norm_act": _fake,
    "instance_norm_act": _fake_instance,
    "instance_statistics": _fake_statistics,
    "batch_norm_act_backward": _fake_backward,
    "batch_norm_act_double_backward": _fake_double_backward,
}


def _register_rules(namespace):
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", _by_channels(getattr(getattr(torch.ops, namespace), name)))


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
