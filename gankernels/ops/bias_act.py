"""bias_act: bias, activation, gain and clamp in one pass; one kernel for a derivative of any order."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check

_ROOT2 = math.sqrt(2)

ACTIVATIONS = {
    "linear": (lambda x, alpha: x, 0.0, 1.0),
    "relu": (lambda x, alpha: F.relu(x), 0.0, _ROOT2),
    "lrelu": (lambda x, alpha: F.leaky_relu(x, alpha), 0.2, _ROOT2),
    "tanh": (lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": (lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": (lambda x, alpha: F.elu(x), 1.0, 1.0),
    "selu": (lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": (lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": (lambda x, alpha: F.silu(x), 0.0, _ROOT2),
}
"""Activation name: (function of x and alpha, default alpha, default gain)."""


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """``clamp(gain * act(x + bias), -clamp, clamp)`` in one pass.

    Args:
        x: any shape with dimension `dim`, usually [N, C, H, W] or [N, C]; float16, bfloat16, float32 or float64.
        bias: [x.shape[dim]], dtype and device of x; None for none.
        dim: the dimension that bias runs along; negative counts from the end.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope below zero of lrelu, default 0.2; the others ignore it (elu's scale is 1).
        gain: default sqrt(2) for relu, lrelu and swish, else 1.
        clamp: bound of the result's magnitude, 0 or more; None for none. At the bound the gradient is torch.clamp's.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x and bias: first, second and third order run on kernels, the fourth of a smooth activation
        raises (backend "reference" has it). Under autocast x keeps its dtype and bias is cast to it.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    The epilogue of StyleGAN2's layers (Karras et al. 2020, arXiv 1912.04958).
    """
    if _backend.plain_calls() and type(act) is str:
        y = _plain(x, bias, dim, act, *resolved("bias_act", act, alpha, gain, clamp))
        if y is not NotImplemented:
            return y
    _check.floating("bias_act", "x", x)
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        raise ValueError(f"bias_act: dim is {dim!r}, expected a dimension of x, which has {x.ndim}")
    dim = dim % x.ndim
    _check.channels("bias_act", "x", x, dim)
    if bias is not None:
        if _check.autocast_dtype(x) is not None and isinstance(bias, Tensor) and bias.is_floating_point():
            bias = bias.to(x.dtype)
        _check.like("bias_act", "bias", bias, x)
        if tuple(bias.shape) != (x.shape[dim],):
            raise ValueError(f"bias_act: bias has shape {list(bias.shape)}, expected [{x.shape[dim]}] (x.shape[{dim}])")
    alpha, gain, clamp = resolve("bias_act", act, alpha, gain, clamp)
    return _backend.pick("bias_act", x)(x, bias, dim, act, alpha, gain, clamp)


def resolve(
    op: str, act: str, alpha: float | None, gain: float | None, clamp: float | None
) -> tuple[float, float, float]:
    """Defaults filled in and checked: (alpha, gain, clamp), clamp -1 for none."""
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise ValueError(f"{op}: act is {act!r}, expected one of {', '.join(ACTIVATIONS)}")
    _, default_alpha, default_gain = ACTIVATIONS[act]
    alpha = _check.finite(op, "alpha", default_alpha if alpha is None else alpha)
    if act != "lrelu":
        alpha = default_alpha
    gain = _check.finite(op, "gain", default_gain if gain is None else gain)
    if clamp is None:
        return alpha, gain, -1.0
    clamp = _check.finite(op, "clamp", clamp)
    if clamp < 0:
        raise ValueError(f"{op}: clamp is {clamp}, expected 0 or more, or None for no clamp")
    return alpha, gain, clamp


_plain = _backend.plain_call("bias_act")
resolved = lru_cache(1024, typed=True)(resolve)  # typed: True is no number, 1 is


def reference(x: Tensor, bias: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    if bias is not None:
        x = x + bias.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = ACTIVATIONS[act][0](x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp < 0 else x.clamp(-clamp, clamp)


def _triton(x, bias, dim, act, alpha, gain, clamp):
    return torch.ops.gankernels.bias_act(x, bias, dim, act, alpha, gain, clamp)


_backend.register(
    "bias_act",
    reference=reference,
    cpu=_backend.native("bias_act"),
    cuda=_backend.native("bias_act"),
    triton=_triton,
)


def _fake(x, bias, dim, act, alpha, gain, clamp):
    return torch.empty_like(x, memory_format=_check.kept_format(x, dim))


def _fake_derivative(g, g_bias, h, ref, bias, ref_is_output, order, dim, act, alpha, gain, clamp, want_full, want_bias):
    like = g if ref is None else ref
    full = torch.empty_like(like, memory_format=_check.kept_format(like, dim)) if want_full else g.new_empty(0)
    return full, g.new_empty(g.shape[dim] if want_bias else 0)


_NUMBERS = "int dim, str act, float alpha, float gain, float clamp"
torch.library.define("gankernels::bias_act", f"(Tensor x, Tensor? bias, {_NUMBERS}) -> Tensor")
torch.library.define(
    "gankernels::bias_act_derivative",
    "(Tensor g, Tensor? g_bias, Tensor? h, Tensor? ref, Tensor? bias, bool ref_is_output, int order, "
    f"{_NUMBERS}, bool want_full, bool want_bias) -> (Tensor, Tensor)",
)


@torch.library.impl("gankernels::bias_act", "CompositeExplicitAutograd")
def _run(*args):
    from gankernels.triton import bias_act as kernels

    return kernels.value(*args)


@torch.library.impl("gankernels::bias_act_derivative", "CompositeExplicitAutograd")
def _run_derivative(*args):
    from gankernels.triton import bias_act as kernels

    return kernels.derivative(*args)


def _output_suffices(act, alpha, gain, clamp):
    """The output alone tells the slope; not at a clamp, where it is ambiguous, nor where a factor turns signs."""
    if act in ("tanh", "sigmoid"):  # needs y / gain exactly: a rounded one is wrong where the curve saturates
        return clamp < 0 and gain == 1
    return clamp < 0 and gain > 0 and (act == "relu" or (act == "lrelu" and alpha >= 0))


def _setup(ctx, inputs, output):
    x, bias, *ctx.numbers = inputs
    ctx.has_bias = bias is not None
    _, act, alpha, gain, clamp = ctx.numbers
    ctx.from_output = _output_suffices(act, alpha, gain, clamp)
    if ctx.from_output:
        ctx.save_for_backward(output, None)
    elif act == "linear" and clamp < 0:
        ctx.save_for_backward(None, None)
    else:
        ctx.save_for_backward(x, bias)


def _backward(ctx, g):
    ref, bias = ctx.saved_tensors
    want_x, want_bias = _pruning.wanted(ctx, True, ctx.has_bias)
    gx, gb = torch.ops.gankernels.bias_act_derivative(
        g, None, None, ref, bias, ctx.from_output, 1, *ctx.numbers, want_x, want_bias
    )
    return (gx if want_x else None, gb if want_bias else None, *[None] * 5)


def _setup_derivative(ctx, inputs, output):
    *tensors, ctx.ref_is_output, ctx.order, dim, act, alpha, gain, clamp, want_full, want_bias = inputs
    ctx.numbers = (dim, act, alpha, gain, clamp)
    ctx.wanted = (want_full, want_bias)
    ctx.save_for_backward(*tensors)


def _backward_derivative(ctx, cotangent, cotangent_bias):
    g, g_bias, h, ref, bias = ctx.saved_tensors
    dim, act = ctx.numbers[:2]
    need_g, need_g_bias, need_h, need_ref, need_bias = _pruning.wanted(
        ctx, *(t is not None for t in (g, g_bias, h, ref, bias))
    )
    if not ctx.wanted[0]:
        cotangent = torch.zeros_like(g)
    if not ctx.wanted[1]:
        cotangent_bias = None
    whole_g = g if g_bias is None else g + g_bias.reshape([-1 if i == dim else 1 for i in range(g.ndim)])

    def derivative(factor, order, full, reduced):
        if not (full or reduced):
            return None, None
        outs = torch.ops.gankernels.bias_act_derivative(
            cotangent, cotangent_bias, factor, ref, bias, ctx.ref_is_output, order, *ctx.numbers, full, reduced
        )
        return (outs[0] if full else None), (outs[1] if reduced else None)

    d_g, d_g_bias = derivative(h, ctx.order, need_g, need_g_bias)
    d_h, _ = derivative(whole_g, ctx.order, need_h, False)
    d_ref = d_bias = None
    smooth = act not in ("linear", "relu", "lrelu")
    if smooth and not (ctx.ref_is_output and ctx.order == 3) and (need_ref or need_bias):
        if ctx.order == 3:
            raise RuntimeError(
                f"bias_act: the derivative of order 4 of {act} is not supported by the compiled backends; "
                "use gankernels.backend('reference')"
            )
        factor = whole_g if h is None else whole_g * h
        d_ref, d_bias = derivative(factor, ctx.order + 1, need_ref, need_bias)
    return (d_g, d_g_bias, d_h, d_ref, d_bias, *[None] * 9)


def _vmap_rule(op, whole, channels, dim):
    """A vmap rule: tensors numbered `whole` take the mapped dimension in front, which moves argument `dim` on by one.

    Where one of `channels` is mapped, or each sample wants its own sum over the others, the samples run one by one.
    """

    def rule(info, in_dims, *args):
        if any(in_dims[i] is not None for i in channels) or args[-1] is True:
            each = [
                op(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
                for i in range(info.batch_size)
            ]
            return tuple(map(torch.stack, zip(*each, strict=True))) if whole[1:] else torch.stack(each), each_dim
        args = list(args)
        for i in whole:
            if args[i] is not None:
                d = in_dims[i]
                args[i] = args[i].expand(info.batch_size, *args[i].shape) if d is None else args[i].movedim(d, 0)
        args[dim] += 1
        out = op(*args)
        return (out[0], out[1].expand(info.batch_size, 0)) if whole[1:] else out, each_dim

    each_dim = (0, 0) if whole[1:] else 0
    return rule


def _register_rules(namespace):
    ops = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::bias_act", _fake)
    torch.library.register_fake(f"{namespace}::bias_act_derivative", _fake_derivative)
    torch.library.register_vmap(f"{namespace}::bias_act", _vmap_rule(ops.bias_act, (0,), (1,), 2))
    rule = _vmap_rule(ops.bias_act_derivative, (0, 2, 3), (1, 4), 7)
    torch.library.register_vmap(f"{namespace}::bias_act_derivative", rule)


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
torch.library.register_autograd("gankernels::bias_act", _backward, setup_context=_setup)
torch.library.register_autograd(
    "gankernels::bias_act_derivative", _backward_derivative, setup_context=_setup_derivative
)
