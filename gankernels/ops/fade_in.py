"""fade_in: the mix of an image and an enlarged one, and its adjoint; each is the other's derivative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check, _registration

_NAME = "fade_in"


def fade_in(
    image: Tensor, lower: Tensor, alpha: float | Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """``(1 - alpha) * up(to_rgb(lower)) + alpha * image``: the crossfade to a new resolution.

    Args:
        image: [N, C, r H, r W], what the new resolution gives; float16, bfloat16, float32 or float64.
        lower: [N, I, H, W], the layer below; `up` repeats each pixel r x r times (r = 1: in a discriminator).
        alpha: share of the new, 0 to 1: a number, or a tensor [] of image's dtype and device.
        weight, bias: [C, I, 1, 1] or [C, I] and [C] of the 1x1 convolution to_rgb; None for none, where I is C.

    Returns: shape, dtype and memory format of image. PyTorch convolves the small image; enlarging and mixing are one
        pass over memory, and so are all of its gradients together. Sums are float32 or better. Differentiable in
        image, lower, alpha, weight and bias to any order on two kernels, each the other's derivative. Under autocast
        image keeps its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Karras et al. 2018, arXiv 1710.10196.
    """
    _check.floating(_NAME, "image", image)
    _check.rank(_NAME, "image", image, 4, "[N, C, r H, r W]")
    _check.channels(_NAME, "image", image)
    given = {"lower": lower, "weight": weight, "bias": bias}
    given = {k: _check.cast(image, t) for k, t in given.items() if t is not None or k == "lower"}
    for name, t in given.items():
        _check.like(_NAME, name, t, image, "image")
    lower, weight, bias = given["lower"], given.get("weight"), given.get("bias")
    _check.rank(_NAME, "lower", lower, 4, "[N, I, H, W]")
    _check.channels(_NAME, "lower", lower)
    n, c, h, w = image.shape
    inputs = lower.shape[1]
    if weight is None and bias is not None:
        raise ValueError(f"{_NAME}: bias is a tensor and weight is None, expected both, or no bias")
    if weight is not None and not _is_to_rgb(weight, c, inputs):
        raise ValueError(
            f"{_NAME}: weight has shape {list(weight.shape)}, expected {[c, inputs, 1, 1]} or its first two"
        )
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != c):
        raise ValueError(f"{_NAME}: bias has shape {list(bias.shape)}, expected [{c}] (image.shape[1])")
    rows, columns = lower.shape[2:]
    r = h // max(rows, 1)
    if lower.shape[0] != n or (weight is None and inputs != c) or r < 1 or (rows * r, columns * r) != (h, w):
        raise ValueError(
            f"{_NAME}: lower has shape {list(lower.shape)}, expected [{n}, {c if weight is None else inputs}, H, W] of "
            f"which image's {[h, w]} is a multiple, the same for both"
        )
    if isinstance(alpha, Tensor):
        alpha = _check.cast(image, alpha)
        _check.like(_NAME, "alpha", alpha, image, "image")
        if alpha.ndim:
            raise ValueError(f"{_NAME}: alpha has shape {list(alpha.shape)}, expected [] or a number")
    else:
        alpha = _check.finite(_NAME, "alpha", alpha)
        if not 0 <= alpha <= 1:
            raise ValueError(f"{_NAME}: alpha is {alpha}, expected 0 to 1")
    if weight is not None:
        lower = F.conv2d(lower, weight.reshape(c, inputs, 1, 1), bias).to(image.dtype)
    return _backend.pick(_NAME, image)(image, lower, alpha, _check.constant(r))


def _is_to_rgb(weight: Tensor, c: int, inputs: int) -> bool:
    # Size by size: torch.compile takes a tuple with symbols for another than one of their numbers.
    if weight.ndim not in (2, 4) or weight.shape[0] != c or weight.shape[1] != inputs:
        return False
    return weight.ndim == 2 or (weight.shape[2] == 1 and weight.shape[3] == 1)


def reference(image: Tensor, lower: Tensor, alpha: Tensor | float, r: int) -> Tensor:
    return torch.lerp(_enlarged(lower, r), image, alpha).contiguous(memory_format=_check.kept_format(image))


def _enlarged(low: Tensor, r: int) -> Tensor:
    if r == 1:
        return low
    if low.numel():
        return F.interpolate(low, size=(low.shape[2] * r, low.shape[3] * r))
    return low.repeat(1, 1, r, r)  # of nothing, which F.interpolate refuses


def _plain(x, l, a, x2, l2, a2, difference, factor, r):  # noqa: E741
    a = factor if a is None else a
    b = -a if difference else 1 - a
    like, terms = _like(x, l, x2, l2), []
    if x is not None:
        terms.append(a * x)
    if l is not None:
        terms.append(b * _enlarged(l, r))
    if x2 is not None:
        terms.append(a2 * x2)
    if l2 is not None:
        terms.append(-a2 * _enlarged(l2, r))
    return sum(terms[1:], terms[0]).contiguous(memory_format=_check.kept_format(like))


def _run(namespace: str):
    def run(image, lower, alpha, r):
        a, factor = (None, alpha) if isinstance(alpha, float) else (alpha, 1.0)
        return getattr(torch.ops, namespace).fade_in(image, lower, a, None, None, None, False, factor, r)

    return run


_native = _run("gankernels_native")
_backend.register(_NAME, reference=reference, cpu=_native, cuda=_native, triton=_run("gankernels"))
_backend.register_plain(_NAME, _plain)


def _like(*images: Tensor | None) -> Tensor:
    return next(t for t in images if t is not None)


def _sized(like: Tensor, times: int, by: int) -> Tensor:
    """As `like`, its sides `times` as long and `by` times shorter."""
    n, c, h, w = like.shape
    shape = (n, c, h * times // by, w * times // by)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_check.kept_format(like))


def _fake(x, l, a, x2, l2, a2, difference, factor, r):  # noqa: E741
    low = x is None and (l is not None or x2 is None)
    return _sized(_like(x, l, x2, l2), r if low else 1, 1)


def _fake_adjoint(g, x, l, a, difference, factor, r, wanted):  # noqa: E741
    none = [g.new_empty(0) for _ in range(3)]
    outs = _sized(g, 1, 1), _sized(g, 1, r), g.new_empty(())
    return tuple(t if w else n for t, w, n in zip(outs, wanted, none, strict=True))


def _rule(operator):
    """A vmap rule: images go into the batch; each number its own call."""

    def run(info, in_dims, x, l, a, x2, l2, a2, *rest):  # noqa: E741
        if in_dims[2] is not None or in_dims[5] is not None:
            return _registration.one_by_one(operator)(info, in_dims, x, l, a, x2, l2, a2, *rest)
        images = [_registration.in_front(t, in_dims[i], info.batch_size) for i, t in ((0, x), (1, l), (3, x2), (4, l2))]
        x, l, x2, l2 = (None if t is None else t.flatten(0, 1) for t in images)  # noqa: E741
        return operator(x, l, a, x2, l2, a2, *rest).unflatten(0, _like(*images).shape[:2]), 0

    return run


_registration.define(
    _NAME,
    {
        _NAME: (
            "(Tensor? x, Tensor? l, Tensor? a, Tensor? x2, Tensor? l2, Tensor? a2, bool difference, float factor, "
            "int r) -> Tensor",
            "value",
        ),
        f"{_NAME}_adjoint": (
            "(Tensor g, Tensor? x, Tensor? l, Tensor? a, bool difference, float factor, int r, bool[3] wanted) -> "
            "(Tensor, Tensor, Tensor)",
            "adjoint",
        ),
    },
)
_registration.register({_NAME: (_fake, _rule), f"{_NAME}_adjoint": (_fake_adjoint, _registration.one_by_one)})

_ops = torch.ops.gankernels


def _save(ctx, inputs, output):
    tensors, ctx.numbers = inputs[:6], inputs[6:]
    ctx.present = [t is not None for t in tensors]
    for first in (0, 3):
        if not ctx.needs_input_grad[first + 2]:  # its images are not needed again
            tensors = [None if i in (first, first + 1) else t for i, t in enumerate(tensors)]
    ctx.save_for_backward(*tensors)


def _backward(ctx, g):
    needed, out = _pruning.wanted(ctx, *ctx.present), [None] * 6
    difference, factor, r = ctx.numbers
    for first, numbers in ((0, (difference, factor)), (3, (True, 1.0))):
        wanted = needed[first : first + 3]
        if any(wanted):
            x, l, a = ctx.saved_tensors[first : first + 3]  # noqa: E741
            images = (x, l) if wanted[2] else (None, None)
            grads = _ops.fade_in_adjoint(g, *images, a, *numbers, r, wanted)
            out[first : first + 3] = (t if w else None for t, w in zip(grads, wanted, strict=True))
    return *out, None, None, None


def _save_adjoint(ctx, inputs, output):
    g, x, l, a, *ctx.numbers, wanted = inputs  # noqa: E741
    ctx.present = [t is not None for t in (g, x, l, a)]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    x, l = (x, l) if wanted[2] else (None, None)  # noqa: E741
    ctx.save_for_backward(g if wanted[2] or ctx.needs_input_grad[3] else None, x, l, a)


def _backward_adjoint(ctx, vx, vl, va):
    g, x, l, a = ctx.saved_tensors  # noqa: E741
    by_g, by_x, by_l, by_a = _pruning.wanted(ctx, *ctx.present)
    wanted = [by_x and va is not None, by_l and va is not None, by_a and not (vx is None and vl is None)]
    out, r = [None] * 4, ctx.numbers[-1]
    if by_g and not (vx is None and vl is None and va is None):
        second = (None, None) if va is None else (x, l)
        out[0] = _ops.fade_in(vx, vl, a, *second, va, *ctx.numbers)
    if any(wanted):
        images = (vx, vl) if wanted[2] else (None, None)
        grads = _ops.fade_in_adjoint(g, *images, va, True, 1.0, r, wanted)
        out[1:] = (t if w else None for t, w in zip(grads, wanted, strict=True))
    return *out, None, None, None, None


torch.library.register_autograd(f"gankernels::{_NAME}", _backward, setup_context=_save)
torch.library.register_autograd(f"gankernels::{_NAME}_adjoint", _backward_adjoint, setup_context=_save_adjoint)
