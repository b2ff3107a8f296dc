"""Operators that PyTorch's own kernels, or another operator's, compute in the fewest passes over memory.

Each is registered for every backend as what it is, so that forcing a backend works; none has a kernel of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check


def _plain(name: str, f) -> None:
    _backend.compounds.add(name)
    _backend.register(name, reference=f, cpu=f, cuda=f, triton=f)


def fade_in(
    image: Tensor, lower: Tensor, alpha: float | Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``(1 - alpha) * up(to_rgb(lower)) + alpha * image``: the crossfade to a new resolution.

    Args:
        image: [N, C, r H, r W], what the new resolution gives; float16, bfloat16, float32 or float64.
        lower: [N, I, H, W], the layer below; `up` repeats each pixel r x r times (r = 1: in a discriminator).
        alpha: share of the new, 0 to 1: a number, or a tensor [] of image's dtype and device.
        weight, bias: [C, I, 1, 1] or [C, I] and [C] of the 1x1 convolution to_rgb; None for none, where I is C.

    Returns: shape, dtype and memory format of image. Every backend is PyTorch's own: convolution of the small image,
        nearest upsampling (which is written and read again), one lerp. Differentiable in image, lower, alpha, weight
        and bias to any order. Under autocast image keeps its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Karras et al. 2018, arXiv 1710.10196.
    """
    _check.floating("fade_in", "image", image)
    _check.rank("fade_in", "image", image, 4, "[N, C, r H, r W]")
    _check.channels("fade_in", "image", image)
    given = {"lower": lower, "weight": weight, "bias": bias}
    given = {k: _check.cast(image, t) for k, t in given.items() if t is not None or k == "lower"}
    for name, t in given.items():
        _check.like("fade_in", name, t, image, "image")
    lower, weight, bias = given["lower"], given.get("weight"), given.get("bias")
    _check.rank("fade_in", "lower", lower, 4, "[N, I, H, W]")
    _check.channels("fade_in", "lower", lower)
    n, c, h, w = image.shape
    inputs = lower.shape[1]
    if weight is None and bias is not None:
        raise ValueError("fade_in: bias is a tensor and weight is None, expected both, or no bias")
    if weight is not None and tuple(weight.shape) not in ((c, inputs), (c, inputs, 1, 1)):
        raise ValueError(
            f"fade_in: weight has shape {list(weight.shape)}, expected {[c, inputs, 1, 1]} or its first two"
        )
    if bias is not None and tuple(bias.shape) != (c,):
        raise ValueError(f"fade_in: bias has shape {list(bias.shape)}, expected [{c}] (image.shape[1])")
    rows, columns = lower.shape[2:]
    r = h // max(rows, 1)
    if lower.shape[0] != n or (weight is None and inputs != c) or r < 1 or (rows * r, columns * r) != (h, w):
        raise ValueError(
            f"fade_in: lower has shape {list(lower.shape)}, expected [{n}, {c if weight is None else inputs}, H, W] of "
            f"which image's {[h, w]} is a multiple, the same for both"
        )
    if isinstance(alpha, Tensor):
        alpha = _check.cast(image, alpha)
        _check.like("fade_in", "alpha", alpha, image, "image")
        if alpha.ndim:
            raise ValueError(f"fade_in: alpha has shape {list(alpha.shape)}, expected [] or a number")
    elif not 0 <= _check.finite("fade_in", "alpha", alpha) <= 1:
        raise ValueError(f"fade_in: alpha is {alpha}, expected 0 to 1")
    return _backend.pick("fade_in", image)(image, lower, alpha, weight, bias, r)


def _fade_in(image, lower, alpha, weight, bias, r):
    layout = _check.kept_format(image)
    if weight is not None:
        lower = F.conv2d(lower, weight.reshape(*weight.shape[:2], 1, 1), bias).to(image.dtype)
    lower = lower.contiguous(memory_format=layout)
    if r > 1 and lower.numel():
        lower = F.interpolate(lower, size=tuple(image.shape[2:]))
    elif r > 1:  # of nothing, which F.interpolate refuses
        lower = lower.reshape(image.shape)
    return torch.lerp(lower, image, alpha).contiguous(memory_format=layout)


_plain("fade_in", _fade_in)


class _Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, lam):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.lam = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return g * -ctx.lam, None


def gradient_reversal(x: Tensor, lam: float = 1.0) -> Tensor:
    """x forward; backward its gradient times ``-lam``.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        lam: the factor, any finite number.

    Returns: a view of x, so that forward moves no memory; every backend is the same. Differentiable in x to any order,
        each taking the gradient as it stands: the second derivative is that of ``-lam * g``.
    Raises: ValueError for an argument of the wrong kind or dtype.

    Ganin and Lempitsky 2015, arXiv 1409.7495.
    """
    _check.floating("gradient_reversal", "x", x)
    lam = _check.finite("gradient_reversal", "lam", lam)
    return _backend.pick("gradient_reversal", x)(x, lam)


def _reverse(x, lam):
    if torch.compiler.is_exporting():  # which keeps a Function's forward alone; NaN for an infinity
        still = x.detach()
        return still - lam * (x - still)
    return _Reversal.apply(x, lam)


_plain("gradient_reversal", _reverse)
