"""filtered_lrelu below its public function: the operators that Triton runs, fakes and vmap rules of all kernels.

filtered_lrelu_signs also gives the two bits of each sample of the upsampled image, uint8 [N, C, UH, ceil(UW / 4)],
whose order within a row is the kernels' own. filtered_lrelu_linear upsamples x + bias, multiplies by the slopes that
the bits tell, and downsamples: the derivative, of any order; it can give the result, its sums per channel, or both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops._check import kept_format
from gankernels.ops.upfirdn2d_op import adjoint_padding, fold, out_size


def _taps(f, fy):
    return (f.shape[0], f.shape[1]) if fy is None else (fy.shape[0], f.shape[0])


def _sizes(x, f, fy, up, down, padding):
    """[H, W] after a resampling of [H, W] = `x`."""
    taps = _taps(f, fy)
    return [
        out_size(x[i], up[1 - i], down[1 - i], padding[2 - 2 * i], padding[3 - 2 * i], taps[i]) for i in range(2)
    ]  # fmt: skip


def _upsampled(x, fu, fuy, up, padding):
    return _sizes(x.shape[2:], fu, fuy, up, [1, 1], padding)


def _fake(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp):
    size = _sizes(_upsampled(x, fu, fuy, up, padding), fd, fdy, [1, 1], down, [0] * 4)
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=kept_format(x))


def _fake_signs(x, bias, fu, fuy, fd, fdy, up, down, padding, *rest):
    h, w = _upsampled(x, fu, fuy, up, padding)
    bits = torch.empty((*x.shape[:2], h, (w + 3) // 4), dtype=torch.uint8, device=x.device)
    return _fake(x, bias, fu, fuy, fd, fdy, up, down, padding, *rest), bits


def _fake_linear(
    x, bias, signs, fu, fuy, fd, fdy, up, down, pad_up, pad_down, flip, up_gain, gain, slope, last, want_y, want_sums
):
    size = _sizes(_upsampled(x, fu, fuy, up, pad_up), fd, fdy, [1, 1], down, pad_down)
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)
    return y if want_y else x.new_empty(0), x.new_empty(x.shape[1] if want_sums else 0)


def _vmap_rule(op, folded, sums=False):
    """Folds the mapped dimension of the tensors numbered `folded` into N; sample by sample where that cannot be."""

    def rule(info, in_dims, *args):
        mapped = {i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and in_dims[i] is not None}
        apart = not sums or not args[-1]  # a sum over N would join what is folded
        if apart and mapped <= set(folded):
            args = [fold(info.batch_size, in_dims[i], a) if i in folded else a for i, a in enumerate(args)]
            out = op(*args)
            whole = out if isinstance(out, tuple) else (out,)
            split = [
                t.unflatten(0, (info.batch_size, t.shape[0] // info.batch_size)) if t.ndim == 4 else _repeat(info, t)
                for t in whole
            ]
        else:
            each = [
                op(*(a.select(in_dims[k], i) if k in mapped else a for k, a in enumerate(args)))
                for i in range(info.batch_size)
            ]
            several = isinstance(each[0], tuple)
            split = [torch.stack(t) for t in (zip(*each, strict=True) if several else [each])]
            out = each[0]
        return (tuple(split), (0,) * len(split)) if isinstance(out, tuple) else (split[0], 0)

    return rule


def _repeat(info, t):
    return t.expand(info.batch_size, *t.shape)


if _backend.native_error is None:
    _ops = torch.ops.gankernels_native
    for _name, _rule, _folded in (
        ("filtered_lrelu", _fake, (0,)),
        ("filtered_lrelu_signs", _fake_signs, (0,)),
        ("filtered_lrelu_linear", _fake_linear, (0, 2)),
    ):
        torch.library.register_fake(f"gankernels_native::{_name}")(_rule)
        torch.library.register_vmap(f"gankernels_native::{_name}")(
            _vmap_rule(getattr(_ops, _name), _folded, _name.endswith("linear"))
        )

_FILTERS = "Tensor fu, Tensor? fuy, Tensor fd, Tensor? fdy, SymInt[] up, SymInt[] down, "
torch.library.define(
    "gankernels::filtered_lrelu",
    f"(Tensor x, Tensor? bias, {_FILTERS} SymInt[] padding, bool flip, float gain, float slope, float clamp, "
    "bool keep) -> (Tensor, Tensor)",
)
torch.library.define(
    "gankernels::filtered_lrelu_linear",
    f"(Tensor x, Tensor? bias, Tensor signs, {_FILTERS} SymInt[] pad_up, SymInt[] pad_down, bool flip, "
    "float up_gain, float gain, float slope, bool channels_last, bool want_y, bool want_sums) -> (Tensor, Tensor)",
)


def triton(x, bias, *rest) -> Tensor:
    """The signs are kept where a derivative can be asked for."""
    keep = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    return torch.ops.gankernels.filtered_lrelu(x, bias, *rest, keep)[0]


@torch.library.register_fake("gankernels::filtered_lrelu")
def _fake_triton(x, *rest):
    if rest[-1]:
        return _fake_signs(x, *rest[:-1])
    return _fake(x, *rest[:-1]), torch.empty(0, dtype=torch.uint8, device=x.device)


torch.library.register_fake("gankernels::filtered_lrelu_linear")(_fake_linear)
torch.library.register_vmap("gankernels::filtered_lrelu")(_vmap_rule(torch.ops.gankernels.filtered_lrelu, (0,)))
torch.library.register_vmap("gankernels::filtered_lrelu_linear")(
    _vmap_rule(torch.ops.gankernels.filtered_lrelu_linear, (0, 2), True)
)


@torch.library.impl("gankernels::filtered_lrelu", "CompositeExplicitAutograd")
def _run(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, keep):
    from gankernels.triton import filtered_lrelu as kernels

    y, signs = _fake_triton(x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, clamp, keep)
    if x.numel():
        kernels.run(
            x, bias, signs if keep else None, y, fu, fuy, fd, fdy, up, down, padding, [0] * 4,
            _upsampled(x, fu, fuy, up, padding), list(y.shape[2:]), flip, float(up[0] * up[1]), gain, slope,
            math.inf if clamp < 0 else clamp, kept_format(x), kernels.WRITE if keep else kernels.NONE, False,
        )  # fmt: skip
    return y, signs


@torch.library.impl("gankernels::filtered_lrelu_linear", "CompositeExplicitAutograd")
def _run_linear(
    x, bias, signs, fu, fuy, fd, fdy, up, down, pad_up, pad_down, flip, up_gain, gain, slope, last, want_y, want_sums
):
    from gankernels.triton import filtered_lrelu as kernels

    filters, numbers = (fu, fuy, fd, fdy), (up_gain, gain, slope)
    y, sums = _fake_linear(
        x, bias, signs, *filters, up, down, pad_up, pad_down, flip, *numbers, last, want_y, want_sums
    )
    if not x.numel():
        return y, sums.zero_()
    middle = _upsampled(x, fu, fuy, up, pad_up)
    parts = kernels.run(
        x, bias, signs.contiguous(), y if want_y else None, *filters, up, down, pad_up, pad_down, middle,
        _sizes(middle, fd, fdy, [1, 1], down, pad_down), flip, *numbers, math.inf,
        torch.channels_last if last else torch.contiguous_format, kernels.READ, want_sums,
    )  # fmt: skip
    return y, parts.sum((0, 2)).to(x.dtype) if want_sums else sums


def _save(ctx, inputs, output):
    x, bias, fu, fuy, fd, fdy, up, down, padding, flip, gain, slope, _, keep = inputs
    if not keep:
        raise RuntimeError("filtered_lrelu: a derivative was asked for of a call that kept no signs")
    ctx.wants = (True, bias is not None)
    ctx.given = (True, False)
    ctx.size = list(x.shape[2:])
    ctx.numbers = (up, down, padding, [0] * 4, flip, float(up[0] * up[1]), gain, slope)
    ctx.last = kept_format(x) == torch.channels_last
    _keep(ctx, output[1], fu, fuy, fd, fdy)


def _keep(ctx, signs, *filters):
    if any(f is not None and f.requires_grad for f in filters):
        raise RuntimeError("filtered_lrelu: a filter requires a gradient, which the Triton kernels have not; detach it")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(signs, *filters)


def _save_linear(ctx, inputs, output):
    x, bias, signs, fu, fuy, fd, fdy, *numbers, ctx.last, want_y, want_sums = inputs
    ctx.wants, ctx.given = (True, bias is not None), (want_y, want_sums)
    ctx.size, ctx.numbers = list(x.shape[2:]), tuple(numbers)
    _keep(ctx, signs, fu, fuy, fd, fdy)


def _adjoint(ctx, gy, gsums):
    """Gradients of x and bias: the adjoint of the pass that ctx kept, applied to gy + gsums."""
    gy, gsums = (g if given else None for g, given in zip((gy, gsums), ctx.given, strict=True))
    want_x, want_bias = _pruning.wanted(ctx, *ctx.wants)
    if not (want_x or want_bias) or (gy is None and gsums is None):
        return None, None
    signs, fu, fuy, fd, fdy = ctx.saved_tensors
    up, down, pad_up, pad_down, flip, *scales = ctx.numbers
    middle = _sizes(ctx.size, fu, fuy, up, [1, 1], pad_up)
    out = _sizes(middle, fd, fdy, [1, 1], down, pad_down)
    back_up, back_down = [], []
    for axis in range(2):  # x, y
        of = 1 - axis
        back_up += adjoint_padding(middle[of], out[of], 1, down[axis], pad_down[2 * axis], _taps(fd, fdy)[of])
        back_down += adjoint_padding(ctx.size[of], middle[of], up[axis], 1, pad_up[2 * axis], _taps(fu, fuy)[of])
    if gy is None:
        gy = gsums.new_zeros(1).expand(*signs.shape[:2], *out)
    gx, gbias = torch.ops.gankernels.filtered_lrelu_linear(
        gy, gsums, signs, fd, fdy, fu, fuy, down, up, back_up, back_down, not flip, *scales, ctx.last, want_x, want_bias
    )
    return gx if want_x else None, gbias if want_bias else None


torch.library.register_autograd(
    "gankernels::filtered_lrelu", lambda ctx, gy, _: (*_adjoint(ctx, gy, None), *[None] * 12), setup_context=_save
)
torch.library.register_autograd(
    "gankernels::filtered_lrelu_linear",
    lambda ctx, gy, gsums: (*_adjoint(ctx, gy, gsums), *[None] * 16),
    setup_context=_save_linear,
)
