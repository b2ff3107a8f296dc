"""pixel_shuffle_act: bias and activation on the way to where sub-pixel convolution's channels belong, in one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check, _registration
from gankernels.ops.bias_act import _output_suffices, resolve
from gankernels.ops.bias_act import reference as _bias_act

_NAME = "pixel_shuffle_act"


def pixel_shuffle_act(
    x: Tensor,
    upscale_factor: int,
    bias: Tensor | None = None,
    *,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """``pixel_shuffle(bias_act(x, bias), r)``: y[n, c, h r + i, w r + j] = bias_act(x, bias)[n, (c r + i) r + j, h, w].

    Args:
        x: [N, C r r, H, W], r = upscale_factor; float16, bfloat16, float32 or float64.
        upscale_factor: 1 or more.
        bias: [C r r], that of the convolution before; dtype and device of x; None for none.
        act, alpha, gain, clamp: as in `bias_act`.

    Returns: [N, C, H r, W r], dtype of x; channels_last stays channels_last, other layouts become contiguous. One pass
        over memory. Differentiable in x and bias: first and second order are one kernel each, the third raises (backend
        "reference" has it). Under autocast x keeps its dtype, bias is cast to it.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Shi et al. 2016, arXiv 1609.05158.
    """
    _check.floating(_NAME, "x", x)
    _check.rank(_NAME, "x", x, 4, "[N, C r r, H, W]")
    _check.channels(_NAME, "x", x)
    r = _check.count(_NAME, "upscale_factor", upscale_factor)
    if x.shape[1] % (r * r):
        raise ValueError(f"{_NAME}: x has {x.shape[1]} channels, expected a multiple of {r * r} ({r} squared)")
    if bias is not None:
        bias = _check.cast(x, bias)
        _check.like(_NAME, "bias", bias, x)
        if tuple(bias.shape) != (x.shape[1],):
            raise ValueError(f"{_NAME}: bias has shape {list(bias.shape)}, expected [{x.shape[1]}] (x.shape[1])")
    numbers = resolve(_NAME, act, alpha, gain, clamp)
    return _backend.pick(_NAME, x)(x, r, bias, act, *numbers)


def reference(x: Tensor, r: int, bias: Tensor | None, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    y = _bias_act(x, bias, 1, act, alpha, gain, clamp)
    if y.numel():
        y = F.pixel_shuffle(y, r)
    else:  # of which F.pixel_shuffle's derivative has the wrong shape
        n, c, h, w = y.shape
        y = y.reshape(n, c // (r * r), h * r, w * r)
    return y.contiguous(memory_format=_check.kept_format(x))


def _plain(x, bias, r, act, alpha, gain, clamp):
    return reference(x, r, bias, act, alpha, gain, clamp)


def _run(namespace: str):
    def run(x, r, bias, act, alpha, gain, clamp):
        return getattr(torch.ops, namespace).pixel_shuffle_act(x, bias, r, act, alpha, gain, clamp)

    return run


_native = _run("gankernels_native")
_backend.register(_NAME, reference=reference, cpu=_native, cuda=_native, triton=_run("gankernels"))
_backend.register_plain(_NAME, _plain)


def _sized(like: Tensor, r: int, shuffled: bool, to_shuffled: bool) -> Tensor:
    """Like y (`to_shuffled`) or x, of which `like` is y (`shuffled`) or x."""
    n, c, h, w = like.shape
    if shuffled and not to_shuffled:
        c, h, w = c * r * r, h // r, w // r
    elif to_shuffled and not shuffled:
        c, h, w = c // (r * r), h * r, w * r
    return torch.empty((n, c, h, w), dtype=like.dtype, device=like.device, memory_format=_check.kept_format(like))


def _fake(x, bias, r, *numbers):
    return _sized(x, r, False, True)


def _sums(g, r, wanted):
    return g.new_empty(g.shape[1] * r * r if wanted else 0)


def _fake_backward(g, ref, bias, ref_is_output, r, act, alpha, gain, clamp, wanted):
    like, shuffled = (g, True) if ref is None else (ref, ref_is_output)
    return _sized(like, r, shuffled, False) if wanted[0] else g.new_empty(0), _sums(g, r, wanted[1])


def _fake_double_backward(v, v_bias, g, ref, bias, ref_is_output, r, act, alpha, gain, clamp, wanted):
    like, shuffled = (g, True) if ref is None else (ref, ref_is_output)
    images = (
        _sized(like, r, shuffled, to) if w else g.new_empty(0) for w, to in zip(wanted, (True, False), strict=False)
    )
    return (*images, _sums(g, r, wanted[2]))


def _rule(operator):
    """A vmap rule: images go into the batch; each bias its own call."""

    def run(info, in_dims, x, bias, *numbers):
        if in_dims[1] is not None:
            return _registration.one_by_one(operator)(info, in_dims, x, bias, *numbers)
        x = _registration.in_front(x, in_dims[0], info.batch_size)
        return operator(x.flatten(0, 1), bias, *numbers).unflatten(0, x.shape[:2]), 0

    return run


_NUMBERS = "int r, str act, float alpha, float gain, float clamp"
_registration.define(
    _NAME,
    {
        _NAME: (f"(Tensor x, Tensor? bias, {_NUMBERS}) -> Tensor", "value"),
        f"{_NAME}_backward": (
            "(Tensor g, Tensor? ref, Tensor? bias, bool ref_is_output, "
            f"{_NUMBERS}, bool[2] wanted) -> (Tensor, Tensor)",
            "backward",
        ),
        f"{_NAME}_double_backward": (
            "(Tensor? v, Tensor? v_bias, Tensor g, Tensor? ref, Tensor? bias, bool ref_is_output, "
            f"{_NUMBERS}, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
            "double_backward",
        ),
    },
)
_registration.register(
    {
        _NAME: (_fake, _rule),
        f"{_NAME}_backward": (_fake_backward, _registration.one_by_one),
        f"{_NAME}_double_backward": (_fake_double_backward, _registration.one_by_one),
    }
)


def _save(ctx, inputs, output):
    x, bias, *ctx.numbers = inputs
    _, act, alpha, gain, clamp = ctx.numbers
    ctx.has_bias = bias is not None
    ctx.from_output = act in ("relu", "lrelu") and _output_suffices(act, alpha, gain, clamp)
    if ctx.from_output:
        ctx.save_for_backward(output, None)
    elif act == "linear" and clamp < 0:
        ctx.save_for_backward(None, None)
    else:
        ctx.save_for_backward(x, bias)


def _backward(ctx, g):
    wanted = _pruning.wanted(ctx, True, ctx.has_bias)
    args = g, *ctx.saved_tensors, ctx.from_output, *ctx.numbers, wanted
    outs = torch.ops.gankernels.pixel_shuffle_act_backward(*args)
    return (*(t if w else None for t, w in zip(outs, wanted, strict=True)), *[None] * 5)


def _save_backward(ctx, inputs, output):
    *tensors, ctx.ref_is_output, r, act, alpha, gain, clamp, wanted = inputs
    ctx.numbers = r, act, alpha, gain, clamp
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, v, v_bias):
    wanted = _pruning.wanted(ctx, *(t is not None for t in ctx.saved_tensors))
    if ctx.numbers[1] in ("linear", "relu", "lrelu"):
        wanted = [wanted[0], False, False]
    if (v is None and v_bias is None) or not any(wanted):
        return (None,) * 10
    args = v, v_bias, *ctx.saved_tensors, ctx.ref_is_output, *ctx.numbers, wanted
    outs = torch.ops.gankernels.pixel_shuffle_act_double_backward(*args)
    return (*(t if w else None for t, w in zip(outs, wanted, strict=True)), *[None] * 7)


def _third(ctx, *_):
    raise RuntimeError(
        f"{_NAME}: the derivative of order 3 is not supported by the compiled backends; use "
        "gankernels.backend('reference')"
    )


torch.library.register_autograd(f"gankernels::{_NAME}", _backward, setup_context=_save)
torch.library.register_autograd(f"gankernels::{_NAME}_backward", _double_backward, setup_context=_save_backward)
torch.library.register_autograd(f"gankernels::{_NAME}_double_backward", _third)
