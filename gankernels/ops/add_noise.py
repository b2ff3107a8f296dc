"""add_noise: an image of noise under every channel; the two kernels are each other's derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check, _registration

_NAME = "add_noise"


def add_noise(x: Tensor, noise: Tensor, strength: Tensor | float) -> Tensor:
    """``x + strength * noise``, one image of noise for all channels.

    Args:
        x: [N, C, H, W]; float16, bfloat16, float32 or float64.
        noise: [N, 1, H, W], [1, 1, H, W] or [H, W], dtype and device of x.
        strength: a number, or a tensor [] (StyleGAN2) or [C] (StyleGAN) of x's dtype and device.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous. One pass over
        memory; the gradient of x is that of the result, those of noise and strength are one pass together. Sums are
        float32 or better. Differentiable in x, noise and strength to any order on two kernels, each the other's
        derivative. Under autocast x keeps its dtype, the others are cast.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device.

    Karras et al. 2019, arXiv 1812.04948.
    """
    _check.floating(_NAME, "x", x)
    _check.rank(_NAME, "x", x, 4, "[N, C, H, W]")
    _check.channels(_NAME, "x", x)
    noise = _check.cast(x, noise)
    _check.like(_NAME, "noise", noise, x)
    n, c, h, w = x.shape
    if tuple(noise.shape) not in ((n, 1, h, w), (1, 1, h, w), (h, w)):
        raise ValueError(
            f"{_NAME}: noise has shape {list(noise.shape)}, expected {[n, 1, h, w]}, {[1, 1, h, w]} or {[h, w]}"
        )
    if isinstance(strength, Tensor):
        strength = _check.cast(x, strength)
        _check.like(_NAME, "strength", strength, x)
        if tuple(strength.shape) not in ((), (c,)):
            raise ValueError(f"{_NAME}: strength has shape {list(strength.shape)}, expected [] or [{c}] (x.shape[1])")
    else:
        strength = _check.finite(_NAME, "strength", strength)
    return _backend.pick(_NAME, x)(x, noise, strength)


def reference(x: Tensor, noise: Tensor, strength: Tensor | float) -> Tensor:
    if isinstance(strength, float):
        y = torch.add(x, noise, alpha=strength)
    else:
        y = torch.addcmul(x, noise, strength.reshape(-1, 1, 1))
    return y.contiguous(memory_format=_check.kept_format(x))


def _plain(x, add, s, m, s2, m2, factor):
    y = x if add else torch.zeros_like(x)
    for strength, noise in ((factor if s is None else s, m), (s2, m2)):
        if noise is not None:
            y = reference(y, noise, strength)
    return y


def _run(namespace: str, one: bool = False):
    """`one`: a strength for all channels takes one sum in every dtype, else in 16 bits alone."""

    def run(x, noise, strength):
        m = noise.reshape(1, 1, *noise.shape) if noise.ndim == 2 else noise
        s, factor = (None, strength) if isinstance(strength, float) else (strength, 1.0)
        if s is not None and s.ndim == 0:
            s = s.reshape(1) if one or x.dtype.itemsize == 2 else s.expand(x.shape[1])
        return getattr(torch.ops, namespace).add_noise(x, True, s, m, None, None, factor)

    return run


_cpu, _cuda = _run("gankernels_native", one=True), _run("gankernels_native")
_backend.register(_NAME, reference=reference, cpu=_cpu, cuda=_cuda, triton=_run("gankernels"))
_backend.register_plain(_NAME, _plain)


def _fake(x, add, s, m, s2, m2, factor):
    return torch.empty_like(x, memory_format=_check.kept_format(x))


def _fake_sums(g, s, m, factor, wanted):
    strengths = g.shape[1] if s is None else s.shape[0]
    return g.new_empty(m.shape if wanted[0] else 0), g.new_empty(strengths if wanted[1] else 0)


def _rule(operator):
    """A vmap rule: images and noise go into the batch; each strength its own call."""

    def run(info, in_dims, x, add, s, m, s2, m2, factor):
        if any(in_dims[i] is not None for i in (2, 4, 5)) or m2 is not None or m is None:
            return _registration.one_by_one(operator)(info, in_dims, x, add, s, m, s2, m2, factor)
        x = _registration.in_front(x, in_dims[0], info.batch_size)
        if in_dims[3] is not None or m.shape[0] > 1:
            m = _registration.in_front(m, in_dims[3], info.batch_size)
            m = m.expand(*x.shape[:2], *m.shape[2:]).flatten(0, 1)
        y = operator(x.flatten(0, 1), add, s, m, None, None, factor)
        return y.unflatten(0, x.shape[:2]), 0

    return run


_registration.define(
    _NAME,
    {
        "add_noise": (
            "(Tensor x, bool add, Tensor? s, Tensor? m, Tensor? s2, Tensor? m2, float factor) -> Tensor",
            "value",
        ),
        "add_noise_sums": (
            "(Tensor g, Tensor? s, Tensor m, float factor, bool[2] wanted) -> (Tensor, Tensor)",
            "sums",
        ),
    },
)
_registration.register({"add_noise": (_fake, _rule), "add_noise_sums": (_fake_sums, _registration.one_by_one)})

_ops = torch.ops.gankernels


def _save(ctx, inputs, output):
    _, ctx.add, *numbers, ctx.factor = inputs
    ctx.save_for_backward(*numbers)


def _backward(ctx, g):
    saved = ctx.saved_tensors
    by_x, *needed = _pruning.wanted(ctx, True, *(t is not None for t in saved))
    out = [None] * 4
    for i, factor in ((0, ctx.factor), (2, 1.0)):
        s, m = saved[i : i + 2]
        by_s, by_m = needed[i : i + 2]
        if m is not None and (by_s or by_m):
            of_noise, of_strength = _ops.add_noise_sums(g, s, m, factor, [by_m, by_s])
            out[i : i + 2] = of_strength if by_s else None, of_noise if by_m else None
    return g if by_x and ctx.add else None, None, *out, None


def _save_sums(ctx, inputs, output):
    *tensors, ctx.factor, wanted = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(t for t, w in zip(output, wanted, strict=True) if not w))
    ctx.save_for_backward(*tensors)


def _backward_sums(ctx, of_noise, of_strength):
    g, s, m = ctx.saved_tensors
    by_g, by_s, by_m = _pruning.wanted(ctx, True, s is not None, True)
    out = [None] * 3
    by_s, by_m = by_s and of_noise is not None, by_m and of_strength is not None
    if by_g and not (of_noise is None and of_strength is None):
        noise = None if of_strength is None else m
        out[0] = _ops.add_noise(g, False, s, of_noise, of_strength, noise, ctx.factor)
    if by_s or by_m:
        sizes = s if of_strength is None else of_strength  # without a gradient s itself says how many there are
        d_m, d_s = _ops.add_noise_sums(g, sizes, m if of_noise is None else of_noise, 1.0, [by_m, by_s])
        out[1:] = d_s if by_s else None, d_m if by_m else None
    return *out, None, None


torch.library.register_autograd("gankernels::add_noise", _backward, setup_context=_save)
torch.library.register_autograd("gankernels::add_noise_sums", _backward_sums, setup_context=_save_sums)
