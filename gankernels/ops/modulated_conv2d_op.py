"""Triton's modulated convolutions as PyTorch sees them: operators, shapes without data, vmap rules and derivatives.

A convolution whose source or whose result is scaled by numbers for each sample and channel is linear in image, weight
and numbers, and so are its derivatives: they are another such convolution, a weight gradient of a scaled image, and
sums over pixels (modulate_act_backward's). No product of weight and numbers is ever written.

`modulated_conv2d` is such a convolution with modulate_act in its store. What comes before that is its second result,
kept where a derivative needs it, so that second derivatives reach the convolution through it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _pruning
from gankernels.ops import modulate_act_op  # noqa: F401  registers what the derivatives call
from gankernels.ops.conv2d_op import empty_result

_ONE = [1, 1]
_BARE = ("linear", 0.0, 1.0, -1.0)
_GEOMETRY = "int[2] stride, int[2] padding"
_SCHEMAS = {
    "modulated_conv2d": (
        f"(Tensor x, Tensor weight, Tensor scale, Tensor? scale_out, Tensor? noise, Tensor? bias, {_GEOMETRY}, "
        "SymInt[2] size, str act, float alpha, float gain, float clamp, bool keep) -> (Tensor, Tensor)"
    ),
    "scaled_conv2d": (
        f"(Tensor x, Tensor weight, Tensor scale, bool of_result, bool transposed, {_GEOMETRY}, SymInt[2] size) "
        "-> Tensor"
    ),
    "scaled_conv2d_weight_grad": (
        f"(Tensor small, Tensor large, Tensor scale, bool of_large, {_GEOMETRY}, SymInt[2] kernel) -> Tensor"
    ),
}


def _convolved(x, weight, scale, of_result, transposed, stride, padding, size):
    return empty_result(x, weight, (x.shape[0], weight.shape[1 if transposed else 0], *size))


def _modulated(x, weight, scale, scale_out, noise, bias, stride, padding, size, act, alpha, gain, clamp, keep):
    y = _convolved(x, weight, scale, False, False, stride, padding, size)
    return y, torch.empty_like(y) if keep else y.new_empty(0)


def _weight_grad(small, large, scale, of_large, stride, padding, kernel):
    return empty_result(small, large, (small.shape[1], large.shape[1], *kernel))


def _run_modulated(x, weight, scale, scale_out, noise, bias, stride, padding, size, act, alpha, gain, clamp, keep):
    from gankernels.triton import conv2d as kernels
    from gankernels.triton.conv2d_finish import Finish

    finish = Finish(scale_out, noise, act, alpha, gain, clamp)
    bare = _modulated(x, weight, scale, None, None, None, stride, padding, size, *_BARE, keep)[1]
    y = kernels.convolve(
        x, weight, bias, stride, padding, _ONE, 1, size, False, scale, finish, bare if keep else None
    )  # fmt: skip
    return y, bare


def _run_scaled(x, weight, scale, of_result, transposed, stride, padding, size):
    from gankernels.triton import conv2d as kernels
    from gankernels.triton.conv2d_finish import Finish

    scales = (None, Finish(scale)) if of_result else (scale, None)
    return kernels.convolve(x, weight, None, stride, padding, _ONE, 1, size, transposed, *scales)


def _run_weight_grad(small, large, scale, of_large, stride, padding, kernel):
    from gankernels.triton import conv2d_weight_grad as kernels

    scales = (None, scale) if of_large else (scale, None)
    return kernels.weight_grad(small, large, stride, padding, _ONE, 1, kernel, *scales)


def _one(t, dim, i):
    return t.select(dim, i) if isinstance(t, Tensor) and dim is not None else t


def _one_by_one(op):
    def rule(info, in_dims, *args):
        def one(i):
            return op(*map(_one, args, in_dims, [i] * len(args)))

        each = [one(i) for i in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])

    return rule


def _into_samples(op, samples: tuple[int, ...], noise: int | None = None):
    """A vmap rule: where only arguments `samples` are mapped (and noise is common), the batch joins their samples."""
    loop = _one_by_one(op)

    def rule(info, in_dims, *args):
        common = noise is None or args[noise] is None or args[noise].shape[0] == 1
        others = (i for i, a in enumerate(args) if isinstance(a, Tensor) and i not in samples)
        if not common or any(in_dims[i] is not None for i in others):
            return loop(info, in_dims, *args)
        batch, args = info.batch_size, list(args)
        for i in samples:
            if args[i] is not None:
                d, t = in_dims[i], args[i]
                args[i] = (t.expand(batch, *t.shape) if d is None else t.movedim(d, 0)).flatten(0, 1)
        outs = op(*args)
        whole = [
            t.unflatten(0, (batch, t.shape[0] // batch)) if t.ndim == 4 else t.expand(batch, 0)
            for t in ((outs,) if isinstance(outs, Tensor) else outs)
        ]
        return (whole[0], 0) if isinstance(outs, Tensor) else (tuple(whole), (0,) * len(whole))

    return rule


_ops = torch.ops.gankernels
for _name, _run, _fake in (
    ("modulated_conv2d", _run_modulated, _modulated),
    ("scaled_conv2d", _run_scaled, _convolved),
    ("scaled_conv2d_weight_grad", _run_weight_grad, _weight_grad),
):
    torch.library.define(f"gankernels::{_name}", _SCHEMAS[_name])
    torch.library.impl(f"gankernels::{_name}", "CompositeExplicitAutograd")(_run)
    torch.library.register_fake(f"gankernels::{_name}", _fake)
torch.library.register_vmap("gankernels::modulated_conv2d", _into_samples(_ops.modulated_conv2d, (0, 2, 3), 4))
torch.library.register_vmap("gankernels::scaled_conv2d", _into_samples(_ops.scaled_conv2d, (0, 2)))
torch.library.register_vmap("gankernels::scaled_conv2d_weight_grad", _one_by_one(_ops.scaled_conv2d_weight_grad))


def modulated_conv2d(*args) -> tuple[Tensor, Tensor]:
    return _ops.modulated_conv2d(*args)


def scaled_conv2d(*args) -> Tensor:
    return _ops.scaled_conv2d(*args)


def _plain(x, weight, transposed, stride, padding, size) -> Tensor:
    op = _ops.conv_transpose2d if transposed else _ops.conv2d
    return op(x, weight, None, stride, padding, _ONE, 1, size)


def _sums(a, b, scale, want_scaled: bool):
    """(scale a, the sums over pixels of a b): an image's gradient from that of the scaled one, and the numbers'."""
    wanted = [want_scaled, True, False, False]
    return _ops.modulate_act_backward(a, b, scale if want_scaled else None, None, None, *_BARE, wanted)[:2]


def _by_scaled_image(g, weight, image, scale, transposed, stride, padding, want_image, want_scale):
    """The gradients by an image, and by the numbers that scale it, of a form whose other image is g."""
    size = image.shape[2:]
    if want_scale:
        gx, gs = _sums(_plain(g, weight, transposed, stride, padding, size), image, scale, want_image)
        return gx if want_image else None, gs
    if not want_image:
        return None, None
    return _ops.scaled_conv2d(g, weight, scale, True, transposed, stride, padding, size), None


def _convolution_grads(g, x, weight, scale, transposed, stride, padding, wanted):
    """The gradients of conv(scale x, weight), by x, weight and scale."""
    want_x, want_w, want_s = wanted
    gx, gs = _by_scaled_image(g, weight, x, scale, not transposed, stride, padding, want_x, want_s)
    gw = None
    if want_w:
        images = (x, g) if transposed else (g, x)
        gw = _ops.scaled_conv2d_weight_grad(*images, scale, not transposed, stride, padding, weight.shape[2:])
    return gx, gw, gs


def _save_scaled(ctx, inputs, output):
    x, weight, scale, *ctx.numbers, _ = inputs
    ctx.save_for_backward(x, weight, scale)


def _scaled_backward(ctx, g):
    x, weight, scale = ctx.saved_tensors
    of_result, transposed, stride, padding = ctx.numbers
    wanted = want_x, want_w, want_s = _pruning.wanted(ctx, True, True, True)
    if not of_result:
        grads = _convolution_grads(g, x, weight, scale, transposed, stride, padding, wanted)
        return (*grads, *[None] * 5)
    gx = gw = gs = None
    if want_x:
        gx = _ops.scaled_conv2d(g, weight, scale, False, not transposed, stride, padding, x.shape[2:])
    if want_w:
        images = (x, g) if transposed else (g, x)
        gw = _ops.scaled_conv2d_weight_grad(*images, scale, transposed, stride, padding, weight.shape[2:])
    if want_s:
        gs = _sums(_plain(x, weight, transposed, stride, padding, g.shape[2:]), g, None, False)[1]
    return (gx, gw, gs, *[None] * 5)


def _save_weight_grad(ctx, inputs, output):
    small, large, scale, *ctx.numbers, _ = inputs
    ctx.save_for_backward(small, large, scale)


def _weight_grad_backward(ctx, v):
    small, large, scale = ctx.saved_tensors
    of_large, stride, padding = ctx.numbers
    want_small, want_large, want_s = _pruning.wanted(ctx, True, True, True)
    scaled, other = (large, small) if of_large else (small, large)
    want_scaled, want_other = (want_large, want_small) if of_large else (want_small, want_large)
    # The scaled image is convolved to the other: plainly where it is the large one, else transposed.
    g_other = None
    if want_other:
        g_other = _ops.scaled_conv2d(scaled, v, scale, False, not of_large, stride, padding, other.shape[2:])
    g_scaled, gs = _by_scaled_image(other, v, scaled, scale, of_large, stride, padding, want_scaled, want_s)
    images = (g_other, g_scaled) if of_large else (g_scaled, g_other)
    return (*images, gs, *[None] * 4)


def _save_modulated(ctx, inputs, output):
    x, weight, scale, scale_out, noise, bias, ctx.stride, ctx.padding, _, *numbers, keep = inputs
    ctx.numbers = numbers
    ctx.set_materialize_grads(False)
    if not keep:
        ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, scale, scale_out, noise, bias, output[1] if keep else None)


def _modulated_backward(ctx, gy, gz):
    x, weight, scale, *finish, z = ctx.saved_tensors
    wanted = _pruning.wanted(ctx, True, True, True, *(t is not None for t in finish))
    through = any(wanted[:3])
    grads = [None] * 3
    if gy is not None and any(wanted):
        flags = [through, *wanted[3:]]
        found = _ops.modulate_act_backward(gy, z, *finish, *ctx.numbers, flags)
        g, *grads = (t if want else None for t, want in zip(found, flags, strict=True))
        gz = g if gz is None else gz if g is None else gz + g
    images = [None] * 3
    if gz is not None and through:
        images = _convolution_grads(gz, x, weight, scale, False, ctx.stride, ctx.padding, wanted[:3])
    return (*images, *grads, *[None] * 8)


torch.library.register_autograd("gankernels::modulated_conv2d", _modulated_backward, setup_context=_save_modulated)
torch.library.register_autograd("gankernels::scaled_conv2d", _scaled_backward, setup_context=_save_scaled)
torch.library.register_autograd(
    "gankernels::scaled_conv2d_weight_grad", _weight_grad_backward, setup_context=_save_weight_grad
)
