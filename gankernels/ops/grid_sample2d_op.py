"""grid_sample2d below its public function: the operators that Triton runs, fakes and vmap rules of all kernels.

Three operators close under differentiation of any order (csrc/grid_sample2d.h): the samples of x at `grid`; their
adjoint in x, of [H, W] = `size`; and the products of gy with the pixels around each point, [N, OH, OW, 2], which are
the derivatives in the grid, or `mixed` [N, OH, OW, 1]. `grid` is [N, OH, OW, 2], or the theta [N, 2, 3] of an affine
one. With `along` [N, OH, OW, 2] the samples are derivatives in that direction, with [N, OH, OW, 1] mixed ones times
it. `along` and the products are float32, or float64 for float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check

_SETTINGS = "int mode, int padding, bool align"
torch.library.define(
    "gankernels::grid_sample2d", f"(Tensor x, Tensor grid, Tensor? along, SymInt[] size, {_SETTINGS}) -> Tensor"
)
torch.library.define(
    "gankernels::grid_sample2d_adjoint",
    f"(Tensor gy, Tensor grid, Tensor? along, SymInt[] size, {_SETTINGS}) -> Tensor",
)
torch.library.define(
    "gankernels::grid_sample2d_products", f"(Tensor gy, Tensor x, Tensor grid, bool mixed, {_SETTINGS}) -> Tensor"
)


@torch.library.impl("gankernels::grid_sample2d", "CompositeExplicitAutograd")
def _run(x, grid, along, size, mode, padding, align):
    from gankernels.triton import grid_sample2d as kernels

    return kernels.sample(x, grid, along, size, mode, padding, align)


@torch.library.impl("gankernels::grid_sample2d_adjoint", "CompositeExplicitAutograd")
def _run_adjoint(gy, grid, along, size, mode, padding, align):
    from gankernels.triton import grid_sample2d as kernels

    return kernels.adjoint(gy, grid, along, size, mode, padding, align)


@torch.library.impl("gankernels::grid_sample2d_products", "CompositeExplicitAutograd")
def _run_products(gy, x, grid, mixed, mode, padding, align):
    from gankernels.triton import grid_sample2d as kernels

    return kernels.products(gy, x, grid, mixed, mode, padding, align)


def sample(x: Tensor, grid: Tensor, along: Tensor | None, size, settings) -> Tensor:
    return torch.ops.gankernels.grid_sample2d(x, grid, along, size, *settings)


def _adjoint(gy, grid, along, size, settings):
    return torch.ops.gankernels.grid_sample2d_adjoint(gy, grid, along, size, *settings)


def _products(gy, x, grid, mixed, settings):
    return torch.ops.gankernels.grid_sample2d_products(gy, x, grid, mixed, *settings)


def _grid_gradient(gy, x, grid, along, settings):
    """The gradient in the grid of <gy, samples>, with `along` of the derivatives along it."""
    if settings[0] != 0 or (along is not None and along.shape[3] == 1):
        return torch.zeros_like(grid)
    if along is None:
        return _products(gy, x, grid, False, settings).to(grid.dtype)
    return (along.flip(-1) * _products(gy, x, grid, True, settings)).to(grid.dtype)


def _place_gradients(gy, x, grid, along, settings, want_grid, want_along):
    if want_grid and grid.ndim == 3:
        raise RuntimeError(
            "grid_sample2d: the gradient of an affine grid is asked for, but theta needed none when the samples were "
            "taken"
        )
    return (
        _grid_gradient(gy, x, grid, along, settings) if want_grid else None,
        _products(gy, x, grid, along.shape[3] == 1, settings) if want_along else None,
    )


def _save(ctx, inputs, output):
    image, grid, along, _, *ctx.settings = inputs
    ctx.size = image.shape[2:]
    ctx.has_along = along is not None
    places = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(image if places else None, grid, along)


def _backward(ctx, gy):
    x, grid, along = ctx.saved_tensors
    want_x, want_grid, want_along = _pruning.wanted(ctx, True, True, ctx.has_along)
    gx = _adjoint(gy, grid, along, ctx.size, ctx.settings) if want_x else None
    places = _place_gradients(gy, x, grid, along, ctx.settings, want_grid, want_along)
    return gx, *places, None, None, None, None


def _backward_adjoint(ctx, v):
    gy, grid, along = ctx.saved_tensors
    want_gy, want_grid, want_along = _pruning.wanted(ctx, True, True, ctx.has_along)
    ggy = sample(v, grid, along, ctx.size, ctx.settings) if want_gy else None
    places = _place_gradients(gy, v, grid, along, ctx.settings, want_grid, want_along)
    return ggy, *places, None, None, None, None


def _save_products(ctx, inputs, output):
    gy, x, grid, _, *ctx.settings = inputs
    ctx.save_for_backward(gy, x, grid)


def _backward_products(ctx, v):
    gy, x, grid = ctx.saved_tensors
    want_gy, want_x, want_grid = _pruning.wanted(ctx, True, True, True)
    ggy = sample(x, grid, v, gy.shape[2:], ctx.settings) if want_gy else None
    gx = _adjoint(gy, grid, v, x.shape[2:], ctx.settings) if want_x else None
    gg = _grid_gradient(gy, x, grid, v, ctx.settings) if want_grid else None
    return ggy, gx, gg, None, None, None, None


def _fake(image, grid, along, size, mode, padding, align):
    return torch.empty(
        (*image.shape[:2], *size), dtype=image.dtype, device=image.device, memory_format=_check.kept_format(image)
    )


def _fake_products(gy, x, grid, mixed, mode, padding, align):
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((x.shape[0], *gy.shape[2:], 1 if mixed else 2), dtype=dtype)


def _rule(op):
    """A vmap rule: the mapped dimension goes into N."""

    def run(info, in_dims, *args):
        b = info.batch_size

        def fold(t, dim):
            if not isinstance(t, Tensor):
                return t
            return (t.expand(b, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)

        out = op(*map(fold, args[:3], in_dims[:3]), *args[3:])
        return out.unflatten(0, (b, out.shape[0] // b)), 0

    return run


def _register_rules(namespace: str) -> None:
    fakes = {"": _fake, "_adjoint": _fake, "_products": _fake_products}
    for suffix, fake in fakes.items():
        name = "grid_sample2d" + suffix
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", _rule(getattr(getattr(torch.ops, namespace), name)))


torch.library.register_autograd("gankernels::grid_sample2d", _backward, setup_context=_save)
torch.library.register_autograd("gankernels::grid_sample2d_adjoint", _backward_adjoint, setup_context=_save)
torch.library.register_autograd("gankernels::grid_sample2d_products", _backward_products, setup_context=_save_products)
_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
