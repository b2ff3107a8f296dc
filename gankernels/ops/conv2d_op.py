"""The convolutions as PyTorch sees them: their shapes without data, their batching under vmap, and Triton's operators.

The compiled ones' schemas and derivatives are C++ (csrc/conv2d_autograd.cpp, where the mathematics is explained);
Triton's are the same in Python.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend, _pruning
from gankernels.ops import _check


def empty_result(a: Tensor, b: Tensor, shape: tuple) -> Tensor:
    """A result of operands a and b: channels_last as soon as one of them is."""
    last = torch.channels_last in (_check.kept_format(a), _check.kept_format(b))
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=a.dtype, device=a.device, memory_format=layout)


def _conv2d(x, weight, bias, stride, padding, dilation, groups, size):
    return empty_result(x, weight, (x.shape[0], weight.shape[0], *size))


def _conv_transpose2d(x, weight, bias, stride, padding, dilation, groups, size):
    return empty_result(x, weight, (x.shape[0], weight.shape[1] * groups, *size))


def _conv2d_weight_grad(small, large, stride, padding, dilation, groups, kernel):
    return empty_result(small, large, (small.shape[1], large.shape[1] // groups, *kernel))


def _conv_transpose2d_filter(x, weight, f, fy, scale, stride, padding, size, filter_padding, flip, gain):
    taps = (f.shape[0] if fy is None else fy.shape[0], f.shape[-1])
    grown = (filter_padding[2] + filter_padding[3], filter_padding[0] + filter_padding[1])
    size = [s + p + 1 - k for s, p, k in zip(size, grown, taps, strict=True)]
    return empty_result(x, weight, (x.shape[0], weight.shape[1], *size))


def _conv_transpose2d_filter_rule(info, in_dims, x, weight, f, fy, scale, *rest):
    op, batch = torch.ops.gankernels_native.conv_transpose2d_filter, info.batch_size
    x_dim, *dims, scale_dim = in_dims[:5]
    if all(dim is None for dim in dims):  # the mapped dimension joins N
        if scale is not None:
            scale = _first(scale, scale_dim, batch).flatten(0, 1)
        images = _first(x, x_dim, batch)
        y = op(images.flatten(0, 1), weight, f, fy, scale, *rest)
        return y.unflatten(0, tuple(images.shape[:2])), 0
    tensors = (x, weight, f, fy, scale)
    each = [
        op(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=False)), *rest)
        for i in range(batch)
    ]
    return torch.stack(each), 0


def _transpose_kernels(weight):
    return weight.new_empty((weight.shape[1], weight.shape[0], *weight.shape[2:]))


def _transpose_kernels_rule(info, in_dims, weight):
    return weight.movedim(in_dims[0], 0).transpose(1, 2).contiguous(), 0


def _first(t: Tensor, dim: int | None, batch: int) -> Tensor:
    """`t` with the mapped dimension first, repeated where it has none."""
    return t.expand(batch, *t.shape) if dim is None else t.movedim(dim, 0)


def _into_channels(t: Tensor, dim: int | None, batch: int) -> Tensor:
    """[N, batch * C, H, W]."""
    return _first(t, dim, batch).transpose(0, 1).flatten(1, 2)


def _convolution_rule(op):
    def rule(info, in_dims, x, weight, bias, stride, padding, dilation, groups, size):
        batch = info.batch_size
        x_dim, weight_dim, bias_dim = in_dims[:3]
        if weight_dim is None:  # the mapped dimension joins N
            images = _first(x, x_dim, batch)
            common = bias if bias_dim is None else None
            y = op(images.flatten(0, 1), weight, common, stride, padding, dilation, groups, size)
            y = y.unflatten(0, (batch, -1) if images.shape[1] else tuple(images.shape[:2]))
            if bias_dim is not None:
                y = y + bias.movedim(bias_dim, 0)[:, None, :, None, None]
            return y, 0
        weight = _first(weight, weight_dim, batch).flatten(0, 1)  # it becomes groups
        if bias is not None:
            bias = _first(bias, bias_dim, batch).flatten(0, 1)
        y = op(_into_channels(x, x_dim, batch), weight, bias, stride, padding, dilation, groups * batch, size)
        return y.unflatten(1, (batch, -1)), 1

    return rule


def _weight_grad_rule(op):
    def rule(info, in_dims, small, large, stride, padding, dilation, groups, kernel):
        batch = info.batch_size
        small, large = _into_channels(small, in_dims[0], batch), _into_channels(large, in_dims[1], batch)
        grad = op(small, large, stride, padding, dilation, groups * batch, kernel)
        return grad.unflatten(0, (batch, -1)), 0

    return rule


def _register_rules(namespace: str) -> None:
    for name, fake, rule in (
        ("conv2d", _conv2d, _convolution_rule),
        ("conv_transpose2d", _conv_transpose2d, _convolution_rule),
        ("conv2d_weight_grad", _conv2d_weight_grad, _weight_grad_rule),
    ):
        torch.library.register_fake(f"{namespace}::{name}", fake)
        torch.library.register_vmap(f"{namespace}::{name}", rule(getattr(getattr(torch.ops, namespace), name)))


_backend.register_plain("transpose_kernels", lambda weight: weight.transpose(0, 1).contiguous())


def _plain_conv_transpose2d_filter(x, weight, f, fy, scale, stride, padding, size, filter_padding, flip, gain):
    plain = _backend.plain()
    y = plain["conv_transpose2d"](x, weight, None, stride, padding, [1, 1], 1, size)
    y = plain["upfirdn2d"](y, f, fy, [1, 1], [1, 1], filter_padding, flip, gain)
    return y if scale is None else (y * scale[:, :, None, None]).to(y.dtype)


_backend.register_plain("conv_transpose2d_filter", _plain_conv_transpose2d_filter)

_NUMBERS = "int[2] stride, int[2] padding, int[2] dilation, int groups"
torch.library.define(
    "gankernels::conv2d", f"(Tensor x, Tensor weight, Tensor? bias, {_NUMBERS}, SymInt[2] size) -> Tensor"
)
torch.library.define(
    "gankernels::conv_transpose2d", f"(Tensor x, Tensor weight, Tensor? bias, {_NUMBERS}, SymInt[2] size) -> Tensor"
)
torch.library.define(
    "gankernels::conv2d_weight_grad", f"(Tensor small, Tensor large, {_NUMBERS}, SymInt[2] kernel) -> Tensor"
)


@torch.library.impl("gankernels::conv2d", "CompositeExplicitAutograd")
def _run(x, weight, bias, stride, padding, dilation, groups, size):
    from gankernels.triton import conv2d as kernels

    return kernels.convolve(x, weight, bias, stride, padding, dilation, groups, size, transposed=False)


@torch.library.impl("gankernels::conv_transpose2d", "CompositeExplicitAutograd")
def _run_transpose(x, weight, bias, stride, padding, dilation, groups, size):
    from gankernels.triton import conv2d as kernels

    return kernels.convolve(x, weight, bias, stride, padding, dilation, groups, size, transposed=True)


@torch.library.impl("gankernels::conv2d_weight_grad", "CompositeExplicitAutograd")
def _run_weight_grad(small, large, stride, padding, dilation, groups, kernel):
    from gankernels.triton import conv2d_weight_grad as kernels

    return kernels.weight_grad(small, large, stride, padding, dilation, groups, kernel)


_register_rules("gankernels")
if _backend.native_error is None:
    _register_rules("gankernels_native")
    torch.library.register_fake("gankernels_native::conv_transpose2d_filter", _conv_transpose2d_filter)
    torch.library.register_vmap("gankernels_native::conv_transpose2d_filter", _conv_transpose2d_filter_rule)
    torch.library.register_fake("gankernels_native::transpose_kernels", _transpose_kernels)
    torch.library.register_vmap("gankernels_native::transpose_kernels", _transpose_kernels_rule)


def conv2d(*args) -> Tensor:
    return torch.ops.gankernels.conv2d(*args)


def conv_transpose2d(*args) -> Tensor:
    return torch.ops.gankernels.conv_transpose2d(*args)


# The trilinear form's parts: the operator of a result takes the other two, in this order.
_OPERANDS = {"small": ("large", "weight"), "large": ("small", "weight"), "weight": ("small", "large")}


def _contract(part: str, parts: dict[str, Tensor], numbers: tuple, size: torch.Size) -> Tensor:
    """The form differentiated by `part`, whose spatial sizes are `size`."""
    a, b = (parts[name] for name in _OPERANDS[part])
    if part == "weight":
        return torch.ops.gankernels.conv2d_weight_grad(a, b, *numbers, size)
    return (conv2d if part == "small" else conv_transpose2d)(a, b, None, *numbers, size)


def _register_derivatives(name: str, result: str) -> None:
    has_bias = result != "weight"

    def save(ctx, inputs, output):
        a, b, *rest = inputs
        ctx.bias = has_bias and rest.pop(0) is not None
        *ctx.numbers, _ = rest
        ctx.sizes = (a.shape[2:], b.shape[2:])
        # Each operand serves the other's gradient alone: a frozen weight keeps no activations.
        ctx.save_for_backward(a if ctx.needs_input_grad[1] else None, b if ctx.needs_input_grad[0] else None)

    def backward(ctx, g):
        parts = dict(zip(_OPERANDS[result], ctx.saved_tensors, strict=True))
        parts[result] = g
        *wanted, want_bias = _pruning.wanted(ctx, True, True, ctx.bias)
        grads = [
            _contract(part, parts, ctx.numbers, size) if want else None
            for part, size, want in zip(_OPERANDS[result], ctx.sizes, wanted, strict=True)
        ]
        if has_bias:
            grads.append(g.sum((0, 2, 3)) if want_bias else None)
        return (*grads, None, None, None, None, None)

    torch.library.register_autograd(f"gankernels::{name}", backward, setup_context=save)


_register_derivatives("conv2d", "small")
_register_derivatives("conv_transpose2d", "large")
_register_derivatives("conv2d_weight_grad", "weight")
