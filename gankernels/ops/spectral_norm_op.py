"""The compiled spectral_norm as PyTorch sees it: shapes without data, and Triton's derivatives.

The C++ operators take lists of weights (csrc/spectral_norm_autograd.cpp). Triton's take all weights packed into one
tensor, one after the other, which PyTorch's cat and split join to the list differentiably.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _registration

_SHAPES = "int[] rows, int[] columns"


def triton(weights: list[Tensor], u: Tensor, v: Tensor | None, iterations: int, eps: float):
    rows = [w.shape[0] for w in weights]
    columns = [w.numel() // w.shape[0] for w in weights]
    packed = torch.cat([w.reshape(-1) for w in weights])
    y, u, v, sigma = torch.ops.gankernels.packed_spectral_norm(packed, u, v, rows, columns, iterations, eps)
    ys = y.split([r * c for r, c in zip(rows, columns, strict=True)])
    return [t.view(w.shape) for t, w in zip(ys, weights, strict=True)], u, v, sigma


_registration.define(
    "spectral_norm",
    {
        "packed_spectral_norm": (
            f"(Tensor w, Tensor u, Tensor? v, {_SHAPES}, int iterations, float eps)"
            " -> (Tensor, Tensor, Tensor, Tensor)",
            "spectral_norm",
        )
    },
)
_registration.define(
    "spectral_norm_gradients",
    {
        "packed_spectral_norm_backward": (
            f"(Tensor g, Tensor w, Tensor u, Tensor v, Tensor sigma, {_SHAPES}) -> Tensor",
            "backward",
        ),
        "packed_spectral_norm_double_backward": (
            f"(Tensor h, Tensor g, Tensor w, Tensor u, Tensor v, Tensor sigma, {_SHAPES}, bool[2] wanted)"
            " -> (Tensor, Tensor)",
            "double_backward",
        ),
    },
)

_ops = torch.ops.gankernels


def _setup(ctx, inputs, output):
    w, _, _, ctx.rows, ctx.columns, _, _ = inputs
    ctx.save_for_backward(w, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, g, *_):
    if g is None:
        return (None,) * 7
    gw = _ops.packed_spectral_norm_backward(g, *ctx.saved_tensors, ctx.rows, ctx.columns)
    return gw, *[None] * 6


def _setup_backward(ctx, inputs, output):
    *tensors, ctx.rows, ctx.columns = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _double_backward(ctx, h):
    wanted = _pruning.wanted(ctx, True, True, False, False, False)[:2]
    if h is None or not any(wanted):
        return (None,) * 7
    outs = _ops.packed_spectral_norm_double_backward(h, *ctx.saved_tensors, ctx.rows, ctx.columns, wanted)
    return *(out if want else None for out, want in zip(outs, wanted, strict=True)), *[None] * 5


def _third(ctx, *grads):
    raise RuntimeError(
        "spectral_norm: the derivative of order 3 is not supported by the compiled backends; use "
        "gankernels.backend('reference')"
    )


torch.library.register_autograd("gankernels::packed_spectral_norm", _backward, setup_context=_setup)
torch.library.register_autograd(
    "gankernels::packed_spectral_norm_backward", _double_backward, setup_context=_setup_backward
)
torch.library.register_autograd("gankernels::packed_spectral_norm_double_backward", _third)


@torch.library.register_fake("gankernels::packed_spectral_norm")
def _fake(w, u, v, rows, columns, iterations, eps):
    return torch.empty_like(w), u.new_empty(u.shape), u.new_empty(sum(columns)), u.new_empty(len(rows))


@torch.library.register_fake("gankernels::packed_spectral_norm_backward")
def _fake_backward(g, w, u, v, sigma, rows, columns):
    return torch.empty_like(w)


@torch.library.register_fake("gankernels::packed_spectral_norm_double_backward")
def _fake_double_backward(h, g, w, u, v, sigma, rows, columns, wanted):
    return tuple(torch.empty_like(w) if want else w.new_empty(0) for want in wanted)


def _alike(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


def _fake_list(w, u, v, iterations, eps):
    columns = sum(t.numel() // t.shape[0] for t in w)
    return _alike(w), u.new_empty(u.shape), u.new_empty(columns), u.new_empty(len(w))


if _backend.native_error is None:
    torch.library.register_fake("gankernels_native::spectral_norm")(_fake_list)
    torch.library.register_fake("gankernels_native::spectral_norm_backward")(lambda g, w, u, v, sigma: _alike(w))
    torch.library.register_fake("gankernels_native::spectral_norm_double_backward")(
        lambda h, g, w, u, v, sigma, wanted: tuple(_alike(w) if want else [] for want in wanted)
    )
