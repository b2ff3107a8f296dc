"""modulate_act: scale each sample's channels, add noise and bias, activate, in one pass; what styles do to an image."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, modulate_act_op
from gankernels.ops.bias_act import reference as _bias_act
from gankernels.ops.bias_act import resolve


def modulate_act(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """``clamp(gain * act(scale * x + noise + bias), -clamp, clamp)`` in one pass.

    Args:
        x: [N, C, H, W]; float16, bfloat16, float32 or float64; N may be 0.
        scale: [N, C], a factor for each channel of each sample: styles, or a demodulation; None for 1.
        bias: [C] or None.
        noise: anything that broadcasts to [N, 1, H, W], such as [N, 1, H, W], [H, W] or a single number; or None.
        act, alpha, gain, clamp: as in `bias_act`, defaults included.

    scale, bias and noise have the dtype of x, or float32 where x has 16 bits.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous. Sums are float32
        or better. Differentiable in x, scale, bias and noise: first and second order run on one kernel each, the third
        raises (backend "reference" has it). Under autocast x keeps its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    The modulation and the epilogue of StyleGAN2's layers (Karras et al. 2020, arXiv 1912.04958).
    """
    op = "modulate_act"
    _check.floating(op, "x", x)
    _check.rank(op, "x", x, 4, "[N, C, H, W]")
    _check.channels(op, "x", x)
    n, c, h, w = x.shape
    if scale is not None:
        scale = channels(op, "scale", scale, x, (n, c), "[N, C]")
    bias, noise = shift(op, bias, noise, x, (n, c, h, w))
    numbers = resolve(op, act, alpha, gain, clamp)
    return _backend.pick(op, x)(x, scale, noise, bias, act, *numbers)


def sums_dtype(x: Tensor) -> torch.dtype:
    """What sums over x are kept in, and every number a channel with them."""
    return torch.promote_types(x.dtype, torch.float32)


def channels(op: str, name: str, t: Tensor, x: Tensor, shape: tuple, words: str) -> Tensor:
    """`t`, checked against `shape` (`words`) and the dtypes that go with x, as sums_dtype."""
    small(op, name, t, x)
    if tuple(t.shape) != shape:
        raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected {list(shape)}, {words}")
    return t.to(sums_dtype(x))


def small(op: str, name: str, t: Tensor, x: Tensor) -> None:
    """`t` may go with x: its device, and its dtype, float32 or, under autocast, any."""
    _check.floating(op, name, t)
    if t.dtype not in (x.dtype, sums_dtype(x)) and _check.autocast_dtype(x) is None:
        raise ValueError(
            f"{op}: {name} has dtype {t.dtype}, expected that of x, {x.dtype}, or float32 where that has 16 bits; "
            "convert one of them"
        )
    if t.device != x.device:
        raise ValueError(f"{op}: {name} is on {t.device}, expected {x.device} as x; move one of them")


def shift(op: str, bias: Tensor | None, noise: Tensor | None, x: Tensor, result: tuple):
    """bias [C] and noise [N or 1, 1, H, W] as sums_dtype, for a `result` of [N, C, H, W]."""
    n, c, h, w = result
    if bias is not None:
        bias = channels(op, "bias", bias, x, (c,), "[C] of the result")
    if noise is not None:
        small(op, "noise", noise, x)
        full = (n, 1, h, w)
        shape = (1,) * (4 - noise.ndim) + tuple(noise.shape)
        # Compared one by one: torch.compile finds no symbolic size `in` a tuple.
        if noise.ndim > 4 or not all(have == 1 or have == want for have, want in zip(shape, full, strict=True)):
            raise ValueError(
                f"{op}: noise has shape {list(noise.shape)}, expected one that broadcasts to {list(full)}, [N, 1, H, W]"
            )
        noise = noise.to(sums_dtype(x)).reshape(shape).expand(shape[0], 1, h, w)
    return bias, noise


def reference(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> Tensor:
    y = x.to(sums_dtype(x))
    if scale is not None:
        y = y * scale[:, :, None, None]
    if noise is not None:
        y = y + noise
    y = _bias_act(y, bias, 1, act, alpha, gain, clamp)
    form = _check.kept_format(x)
    return y.clone(memory_format=form) if y is x else y.to(x.dtype).contiguous(memory_format=form)


_backend.register(
    "modulate_act",
    reference=reference,
    cpu=_backend.native("modulate_act"),
    cuda=_backend.native("modulate_act"),
    triton=modulate_act_op.triton,
)


def over(y: Tensor, scale, noise, bias, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    """modulate_act of a `y` that nobody else holds: written over it where a kernel can and no graph needs it."""
    if (
        not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (y, scale, noise, bias)))
        and torch._C._functorch.maybe_current_level() is None
        and y.is_contiguous(memory_format=_check.kept_format(y))
        and (namespace := _backend.namespace("modulate_act", y)) is not None
    ):
        getattr(torch.ops, namespace).modulate_act_(y, scale, noise, bias, act, alpha, gain, clamp)
        return y
    return _backend.pick("modulate_act", y)(y, scale, noise, bias, act, alpha, gain, clamp)


def weight_power(weight: Tensor) -> Tensor:
    """The sum of squares of each kernel of [O, I, kh, kw]: [O, I] in the dtype of sums, in one read."""
    namespace = _backend.namespace("modulate_act", weight)
    if namespace is not None:
        return getattr(torch.ops, namespace).weight_power(weight)
    return _plain_power(weight)


def _plain_power(weight: Tensor) -> Tensor:
    return weight.to(sums_dtype(weight)).square().sum([2, 3])


_backend.register_plain("weight_power", _plain_power)
