"""maxout: the largest of neighbouring channels, with a byte a result that says which; its derivatives follow that."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _registration

_NAME = "maxout"


def maxout(x: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """The largest of each `pieces` neighbouring channels: ``y[:, c] = max(x[:, c * pieces : (c + 1) * pieces])``.

    Args:
        x: any shape with dimension `dim`, usually [N, C, H, W] or [N, C]; float16, bfloat16, float32 or float64.
        pieces: a divisor of x.shape[dim], 1 or more.
        dim: the dimension of the channels; negative counts from the end.

    Returns: x with C / pieces channels; channels_last stays channels_last where dim is 1, other layouts become
        contiguous. NaN is the largest. One kernel, which under autograd keeps one byte a result (four for more than
        256 pieces) and not x. Differentiable in x to any order, one kernel each; the derivative goes to the first of
        the largest alone. Autocast changes nothing.
    Raises: ValueError for an argument of the wrong kind or dtype, and channels that are no multiple of `pieces`.

    Goodfellow et al. 2013, arXiv 1302.4389.
    """
    _check.floating(_NAME, "x", x)
    _check.count(_NAME, "pieces", pieces)
    if not isinstance(dim, int) or isinstance(dim, bool) or not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{_NAME}: dim is {dim!r}, expected a dimension of x, which has {x.ndim}")
    dim = dim % x.ndim
    _check.channels(_NAME, "x", x, dim)
    if x.shape[dim] % pieces:
        raise ValueError(f"{_NAME}: x has {x.shape[dim]} channels, expected a multiple of pieces = {pieces}")
    return _backend.pick(_NAME, x)(x, pieces, dim)


def reference(x: Tensor, pieces: int, dim: int) -> Tensor:
    return _with_index(x, pieces, dim)[0]


def _with_index(x: Tensor, pieces: int, dim: int, with_index: bool = True) -> tuple[Tensor, Tensor]:
    y, index = x.unflatten(dim, (x.shape[dim] // pieces, pieces)).max(dim + 1)
    layout = _check.kept_format(x, dim)
    return y.contiguous(memory_format=layout), index.to(_index_dtype(pieces)).contiguous(memory_format=layout)


def _index_dtype(pieces: int) -> torch.dtype:
    return torch.uint8 if pieces <= 256 else torch.int32


def _run(namespace: str):
    def run(x, pieces, dim):
        kept = torch.is_grad_enabled() and x.requires_grad
        return getattr(torch.ops, namespace).maxout(x, pieces, dim, kept)[0]

    return run


_native = _run("gankernels_native")
_backend.register(_NAME, reference=reference, cpu=_native, cuda=_native, triton=_run("gankernels"))
_backend.register_plain(_NAME, _with_index)


def _sized(like: Tensor, dim: int, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    shape = (*like.shape[:dim], channels, *like.shape[dim + 1 :])
    layout = _check.kept_format(like, dim)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def _fake(x, pieces, dim, with_index):
    channels, dtype = x.shape[dim] // pieces, _index_dtype(pieces)
    return _sized(x, dim, channels), _sized(x, dim, channels, dtype) if with_index else x.new_empty(0, dtype=dtype)


def _fake_scatter(g, index, pieces, dim):
    return _sized(index, dim, index.shape[dim] * pieces, g.dtype)


def _fake_gather(v, index, pieces, dim):
    return _sized(index, dim, index.shape[dim], v.dtype)


def _rule(operator):
    """A vmap rule: the mapped dimension goes in front, which moves `dim` on by one."""

    def run(info, in_dims, x, pieces, dim, with_index):
        x = _registration.in_front(x, in_dims[0], info.batch_size)
        return operator(x, pieces, dim + 1, True), (0, 0)

    return run


def _linear_rule(operator):
    def run(info, in_dims, t, index, pieces, dim):
        t, index = (_registration.in_front(a, d, info.batch_size) for a, d in zip((t, index), in_dims, strict=False))
        return operator(t, index, pieces, dim + 1), 0

    return run


_SIDES = "Tensor index, int pieces, int dim) -> Tensor"
_registration.define(
    _NAME,
    {
        "maxout": ("(Tensor x, int pieces, int dim, bool with_index) -> (Tensor, Tensor)", "value"),
        "maxout_scatter": (f"(Tensor g, {_SIDES}", "scatter"),
        "maxout_gather": (f"(Tensor v, {_SIDES}", "gather"),
    },
)
_registration.register(
    {
        "maxout": (_fake, _rule),
        "maxout_scatter": (_fake_scatter, _linear_rule),
        "maxout_gather": (_fake_gather, _linear_rule),
    }
)


def _save(ctx, inputs, output):
    _, *ctx.sizes, with_index = inputs
    ctx.kept = with_index
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _of_value(ctx, g, _):
    if not ctx.kept:
        raise RuntimeError("maxout: with_index is False, so that no gradient is known; call it through gankernels.ops")
    return torch.ops.gankernels.maxout_scatter(g, *ctx.saved_tensors, *ctx.sizes), None, None, None


def _save_linear(ctx, inputs, output):
    _, index, *ctx.sizes = inputs
    ctx.save_for_backward(index)


def _transposed(name: str):
    def backward(ctx, g):
        transposed = getattr(torch.ops.gankernels, name)
        return transposed(g, *ctx.saved_tensors, *ctx.sizes), None, None, None

    return backward


torch.library.register_autograd("gankernels::maxout", _of_value, setup_context=_save)
for _one, _other in (("scatter", "gather"), ("gather", "scatter")):
    _backward = _transposed(f"maxout_{_other}")
    torch.library.register_autograd(f"gankernels::maxout_{_one}", _backward, setup_context=_save_linear)
