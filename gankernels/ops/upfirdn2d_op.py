"""upfirdn2d below its public function: shapes, the operator that Triton runs, fakes and vmap rules of all kernels.

Arguments everywhere: `f` is [KH, KW], or the horizontal taps [KW] where `fy` holds the vertical ones [KH]; `up` and
`down` are [x, y]; `padding` is [x0, x1, y0, y1]. Everything is bilinear in x and filter, so two operators close under
differentiation: upfirdn2d, whose adjoint in x is itself, and upfirdn2d_filter_grad, its adjoint in the filter. The CPU
has upfirdn2d_factor_grads too, the gradients in `f` and `fy`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check

SETTINGS = "SymInt[] up, SymInt[] down, SymInt[] padding, bool flip, float gain"
SCHEMA = f"(Tensor x, Tensor f, Tensor? fy, {SETTINGS}) -> Tensor"
FILTER_GRAD_SCHEMA = f"(Tensor x, Tensor g, SymInt[] taps, {SETTINGS}) -> Tensor"


def out_size(size: int, up: int, down: int, pad0: int, pad1: int, taps: int) -> int:
    return (size * up + pad0 + pad1 - taps + down) // down


def adjoint_padding(size: int, out: int, up: int, down: int, pad0: int, taps: int) -> list[int]:
    """The padding with which [out] samples, up by `down` and down by `up`, give back [size] in the adjoint."""
    return [taps - 1 - pad0, size * up - out * down + pad0 - up + 1]


def _taps(f: Tensor, fy: Tensor | None) -> tuple[int, int]:
    return (f.shape[0], f.shape[1]) if fy is None else (fy.shape[0], f.shape[0])


def _fake(x, f, fy, up, down, padding, flip, gain):
    kh, kw = _taps(f, fy)
    h = out_size(x.shape[2], up[1], down[1], padding[2], padding[3], kh)
    w = out_size(x.shape[3], up[0], down[0], padding[0], padding[1], kw)
    return torch.empty((*x.shape[:2], h, w), dtype=x.dtype, device=x.device, memory_format=_check.kept_format(x))


def _filter_grad_fake(x, g, taps, up, down, padding, flip, gain):
    return x.new_empty(taps, dtype=torch.promote_types(x.dtype, torch.float32))


def _factor_grads_fake(x, g, f, fy, up, down, padding, flip, gain, wanted):
    dtype = torch.promote_types(x.dtype, torch.float32)
    return tuple(x.new_empty(t.shape if want else (0,), dtype=dtype) for t, want in zip((f, fy), wanted, strict=True))


def fold(batch_size, dim, tensor):
    """[N, ...] batched at `dim`, or the same for all, as [B * N, ...]."""
    tensor = tensor.expand(batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _vmap_rule(op):
    def rule(info, in_dims, x, f, fy, *rest):
        if in_dims[1] is None and in_dims[2] is None:
            y = op(fold(info.batch_size, in_dims[0], x), f, fy, *rest)
            return y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size)), 0
        return _loop(op, info, in_dims, (x, f, fy), rest)

    return rule


def _loop(op, info, in_dims, tensors, rest):
    def pick(t, dim, i):
        return t if dim is None else t.select(dim, i)

    each = [op(*map(pick, tensors, in_dims, [i] * len(tensors)), *rest) for i in range(info.batch_size)]
    if isinstance(each[0], Tensor):
        return torch.stack(each), 0
    return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])


def _filter_grad_vmap_rule(op):
    return lambda info, in_dims, x, g, *rest: _loop(op, info, in_dims, (x, g), rest)


def _factor_grads_vmap_rule(op):
    return lambda info, in_dims, x, g, f, fy, *rest: _loop(op, info, in_dims, (x, g, f, fy), rest)


_RULES = {
    "upfirdn2d": (_fake, _vmap_rule),
    "upfirdn2d_filter_grad": (_filter_grad_fake, _filter_grad_vmap_rule),
}


def _register_rules(namespace: str, rules: dict) -> None:
    ops = getattr(torch.ops, namespace)
    for name, (fake, rule) in rules.items():
        torch.library.register_fake(f"{namespace}::{name}")(fake)
        torch.library.register_vmap(f"{namespace}::{name}")(rule(getattr(ops, name)))


torch.library.define("gankernels::upfirdn2d", SCHEMA)
torch.library.define("gankernels::upfirdn2d_filter_grad", FILTER_GRAD_SCHEMA)


@torch.library.impl("gankernels::upfirdn2d", "CompositeExplicitAutograd")
def _run(x, f, fy, up, down, padding, flip, gain):
    from gankernels.triton import upfirdn2d as kernels

    return kernels.upfirdn2d(x, f, fy, up, down, padding, flip, gain)


@torch.library.impl("gankernels::upfirdn2d_filter_grad", "CompositeExplicitAutograd")
def _run_filter_grad(x, g, taps, up, down, padding, flip, gain):
    from gankernels.triton import upfirdn2d as kernels

    return kernels.upfirdn2d_filter_grad(x, g, taps, up, down, padding, flip, gain)


_register_rules("gankernels", _RULES)
if _backend.native_error is None:
    _register_rules(
        "gankernels_native", _RULES | {"upfirdn2d_factor_grads": (_factor_grads_fake, _factor_grads_vmap_rule)}
    )


def upfirdn2d(*args) -> Tensor:
    return torch.ops.gankernels.upfirdn2d(*args)


def _adjoint(g, f, fy, up, down, padding, flip, gain, size):
    """The gradient in x, of [H, W] = `size`, from that of the output."""
    kh, kw = _taps(f, fy)
    back = adjoint_padding(size[1], g.shape[3], up[0], down[0], padding[0], kw)
    back += adjoint_padding(size[0], g.shape[2], up[1], down[1], padding[2], kh)
    return upfirdn2d(g, f, fy, down, up, back, not flip, gain)


def _save(ctx, inputs, output):
    x, f, fy, *ctx.settings = inputs
    ctx.size = x.shape[2:]
    ctx.save_for_backward(x if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] else None, f, fy)


def _backward(ctx, g):
    x, f, fy = ctx.saved_tensors
    want_x, want_f, want_fy = _pruning.wanted(ctx, True, True, fy is not None)
    gx = gf = gfy = None
    if want_x:
        gx = _adjoint(g, f, fy, *ctx.settings, ctx.size)
    if want_f or want_fy:
        whole = torch.ops.gankernels.upfirdn2d_filter_grad(x, g, _taps(f, fy), *ctx.settings)  # [KH, KW]
        if fy is None:
            gf = whole.to(f.dtype)
        else:
            gf = (whole * fy[:, None].to(whole.dtype)).sum(0).to(f.dtype) if want_f else None
            gfy = (whole * f.to(whole.dtype)).sum(1).to(fy.dtype) if want_fy else None
    return gx, gf, gfy, None, None, None, None, None


def _save_filter_grad(ctx, inputs, output):
    x, g, _, *ctx.settings = inputs
    ctx.save_for_backward(x, g)


def _backward_filter_grad(ctx, gg):  # [KH, KW]
    x, g = ctx.saved_tensors
    want_x, want_g = _pruning.wanted(ctx, True, True)
    gx = _adjoint(g, gg, None, *ctx.settings, x.shape[2:]) if want_x else None
    return gx, upfirdn2d(x, gg, None, *ctx.settings) if want_g else None, None, None, None, None, None, None


torch.library.register_autograd("gankernels::upfirdn2d", _backward, setup_context=_save)
torch.library.register_autograd(
    "gankernels::upfirdn2d_filter_grad", _backward_filter_grad, setup_context=_save_filter_grad
)
