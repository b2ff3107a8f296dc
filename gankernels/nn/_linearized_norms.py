"""Normalisations with their derivative in x: parts of `gankernels.nn.linearized`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gankernels import ops
from gankernels.nn._linearize import Linearization
from gankernels.ops import _adjoints, _norm
from gankernels.ops.adain import checked as check_adain
from gankernels.ops.batch_norm_act import checked as check_batch_norm
from gankernels.ops.conditional_batch_norm import checked as check_conditional
from gankernels.ops.instance_norm_act import checked as check_instance
from gankernels.ops.instance_norm_act import per_sample
from gankernels.ops.spade_norm import checked as check_spade

_PLAIN = {"act": "linear", "alpha": None, "gain": 1.0}

Result = tuple[Tensor, Linearization]


def batch_norm_act(x, weight, bias, running_mean, running_var, **options) -> Result:
    """`ops.batch_norm_act`, its keyword arguments all given; running statistics move once."""
    return _of_a_batch(ops.batch_norm_act, check_batch_norm, x, weight, bias, running_mean, running_var, options)


def conditional_batch_norm(x, scale, shift, running_mean, running_var, **options) -> Result:
    """`ops.conditional_batch_norm`, its keyword arguments all given; running statistics move once."""
    return _of_a_batch(
        ops.conditional_batch_norm, check_conditional, x, scale, shift, running_mean, running_var, options
    )


def spade_norm(x, scale, shift, running_mean, running_var, **options) -> Result:
    """`ops.spade_norm`, its keyword arguments all given; running statistics move once."""
    return _of_a_batch(ops.spade_norm, check_spade, x, scale, shift, running_mean, running_var, options)


def instance_norm_act(x, weight=None, bias=None, *, eps=1e-5, act="linear", alpha=None, gain=1.0) -> Result:
    """`ops.instance_norm_act`."""
    x, weight, bias, *rest = check_instance(x, weight, bias, eps=eps, act=act, alpha=alpha, gain=gain)
    args = (x, *per_sample(x, weight, bias), *rest)
    options = {"training": True, "act": act, "alpha": alpha, "gain": gain}
    return _normalized(args, _adjoints.instance_norm_act_saved, options, lambda: ops.instance_norm_act(
        x, weight, bias, eps=eps
    ))  # fmt: skip


def adain(x, scale, shift, eps: float = 1e-5) -> Result:
    """`ops.adain`."""
    args = (*check_adain(x, scale, shift, eps), "linear", 0.0, 1.0)
    return _normalized(args, _adjoints.instance_norm_act_saved, {"training": True, **_PLAIN}, None)


def _of_a_batch(op, check, x, weight, bias, running_mean, running_var, options) -> Result:
    args = check(x, weight, bias, running_mean, running_var, **options)
    running = (None, None) if options["training"] else (running_mean, running_var)
    kept = {k: options[k] for k in ("training", "act", "alpha", "gain")}
    return _normalized(
        args, _adjoints.batch_norm_act_saved, kept, lambda: op(x, weight, bias, *running, **{**options, **_PLAIN})
    )


def _normalized(args: tuple, run: Callable, options: dict, argument: Callable[[], Tensor] | None) -> Result:
    """run(*args), args beginning with x, weight and bias; `argument()` is what its activation is applied to."""
    x, weight, bias, *_ = args
    y, mean, invstd = run(*args)
    act, alpha, gain = (options[k] for k in ("act", "alpha", "gain"))

    def adjoint(g: Tensor) -> Tensor:
        return _adjoints.batch_norm_act_adjoint(g, x, weight, bias, mean, invstd, **options)

    def tangent(t: Tensor) -> Tensor:
        plain = {**options, **_PLAIN}
        if weight is None or weight.ndim == mean.ndim:  # one weight for what shares a mean: symmetric
            t = _adjoints.batch_norm_act_adjoint(t, x, weight, bias, mean, invstd, **plain)
        else:
            t = _adjoints.batch_norm_act_adjoint(t, x, None, None, mean, invstd, **plain)
            factor = _norm.beside(x, weight) if weight.ndim == 2 else 1 + weight
            t = (t * factor).to(x.dtype)
        if act == "linear":
            return t * gain
        return _adjoints.bias_act_adjoint(t, argument(), y, None, dim=1, act=act, alpha=alpha, gain=gain)

    return y, Linearization(tangent, adjoint)
