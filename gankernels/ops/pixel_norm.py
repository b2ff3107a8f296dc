"""pixel_norm: each pixel's vector of channels scaled to unit mean square, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _second_order

_NAME = "pixel_norm"


def pixel_norm(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x * rsqrt(mean(x ** 2) + eps)``, the mean along `dim`.

    Args:
        x: any shape with dimension `dim`, usually [N, C, H, W] or [N, C]; float16, bfloat16, float32 or float64.
        dim: the dimension that is normalised; negative counts from the end.
        eps: added to the mean square, over 0.

    Returns: shape and dtype of x; channels_last stays channels_last where dim is 1, other layouts become contiguous.
        Sums are float32 or better; autocast changes nothing. Differentiable in x: first and second order run on
        kernels, the third raises (backend "reference" has it).
    Raises: ValueError for an argument of the wrong kind or dtype.

    Karras et al. 2018, arXiv 1710.10196.
    """
    _check.floating(_NAME, "x", x)
    if not isinstance(dim, int) or isinstance(dim, bool) or not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{_NAME}: dim is {dim!r}, expected a dimension of x, which has {x.ndim}")
    _check.channels(_NAME, "x", x, dim % x.ndim)
    eps = _check.finite(_NAME, "eps", eps)
    if eps <= 0:
        raise ValueError(f"{_NAME}: eps is {eps}, expected more than 0")
    return _backend.pick(_NAME, x)(x, dim % x.ndim, eps)


def reference(x: Tensor, dim: int, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = (wide * (wide.square().mean(dim, keepdim=True) + eps).rsqrt()).to(x.dtype)
    return y.contiguous(memory_format=_check.kept_format(x, dim))


def _triton(x, dim, eps):
    return torch.ops.gankernels.pixel_norm(x, dim, eps)


_backend.register(_NAME, reference=reference, cpu=_backend.native(_NAME), cuda=_backend.native(_NAME), triton=_triton)

torch.library.define("gankernels::pixel_norm", "(Tensor x, int dim, float eps) -> Tensor")
torch.library.define("gankernels::pixel_norm_backward", "(Tensor g, Tensor x, int dim, float eps) -> Tensor")
torch.library.define(
    "gankernels::pixel_norm_double_backward",
    "(Tensor v, Tensor g, Tensor x, int dim, float eps, bool[2] wanted) -> (Tensor, Tensor)",
)


@torch.library.impl("gankernels::pixel_norm", "CompositeExplicitAutograd")
def _run(x, dim, eps):
    from gankernels.triton import pixel_norm as kernels

    return kernels.launch(0, x, dim, eps)[1]


@torch.library.impl("gankernels::pixel_norm_backward", "CompositeExplicitAutograd")
def _run_backward(g, x, dim, eps):
    from gankernels.triton import pixel_norm as kernels

    return kernels.launch(1, x, dim, eps, g)[1]


@torch.library.impl("gankernels::pixel_norm_double_backward", "CompositeExplicitAutograd")
def _run_double_backward(v, g, x, dim, eps, wanted):
    from gankernels.triton import pixel_norm as kernels

    return kernels.launch(2, x, dim, eps, g, v, wanted)


_second_order.register_autograd(_NAME)


def _fake(x, dim, eps):
    return torch.empty_like(x, memory_format=_check.kept_format(x, dim))


def _fake_backward(g, x, dim, eps):
    return _fake(x, dim, eps)


def _fake_double_backward(v, g, x, dim, eps, wanted):
    return tuple(_fake(x, dim, eps) if want else x.new_empty(0) for want in wanted)


def _rule(op, tensors):
    """A vmap rule: the mapped dimension goes in front, which moves `dim` on by one."""

    def run(info, in_dims, *args):
        b = info.batch_size

        def front(t, d):
            return t.expand(b, *t.shape) if d is None else t.movedim(d, 0)

        moved = [front(t, d) for t, d in zip(args[:tensors], in_dims, strict=False)]
        dim, *rest = args[tensors:]
        outs = op(*moved, dim + 1, *rest)
        if tensors < 3:
            return outs, 0
        return tuple(o if o.ndim > 1 else o.expand(b, 0) for o in outs), (0, 0)

    return run


def _register_rules(namespace):
    fakes = {"": (_fake, 1), "_backward": (_fake_backward, 2), "_double_backward": (_fake_double_backward, 3)}
    for suffix, (fake, tensors) in fakes.items():
        name = _NAME + suffix
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(
            f"{namespace}::{name}", _rule(getattr(getattr(torch.ops, namespace), name), tensors)
        )


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
