"""The compiled convolutions as PyTorch sees them: their shapes without data, and their batching under vmap.

The schemas and derivatives are C++ (csrc/conv2d_autograd.cpp).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check


def _empty(a: Tensor, b: Tensor, shape: tuple) -> Tensor:
    """A result of operands a and b: channels_last as soon as one of them is."""
    last = torch.channels_last in (_check.kept_format(a), _check.kept_format(b))
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=a.dtype, device=a.device, memory_format=layout)


def _conv2d(x, weight, bias, stride, padding, dilation, groups, size):
    return _empty(x, weight, (x.shape[0], weight.shape[0], *size))


def _conv_transpose2d(x, weight, bias, stride, padding, dilation, groups, size):
    return _empty(x, weight, (x.shape[0], weight.shape[1] * groups, *size))


def _conv2d_weight_grad(small, large, stride, padding, dilation, groups, kernel):
    return _empty(small, large, (small.shape[1], large.shape[1] // groups, *kernel))


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


def _convolution_rule(name: str):
    def rule(info, in_dims, x, weight, bias, stride, padding, dilation, groups, size):
        op, batch = getattr(torch.ops.gankernels_native, name), info.batch_size
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


def _weight_grad_rule(info, in_dims, small, large, stride, padding, dilation, groups, kernel):
    batch = info.batch_size
    small, large = _into_channels(small, in_dims[0], batch), _into_channels(large, in_dims[1], batch)
    grad = torch.ops.gankernels_native.conv2d_weight_grad(
        small, large, stride, padding, dilation, groups * batch, kernel
    )
    return grad.unflatten(0, (batch, -1)), 0


if _backend.native_error is None:
    torch.library.register_fake("gankernels_native::conv2d", _conv2d)
    torch.library.register_fake("gankernels_native::conv_transpose2d", _conv_transpose2d)
    torch.library.register_fake("gankernels_native::conv2d_weight_grad", _conv2d_weight_grad)
    torch.library.register_fake("gankernels_native::transpose_kernels", _transpose_kernels)
    torch.library.register_vmap("gankernels_native::transpose_kernels", _transpose_kernels_rule)
    torch.library.register_vmap("gankernels_native::conv2d", _convolution_rule("conv2d"))
    torch.library.register_vmap("gankernels_native::conv_transpose2d", _convolution_rule("conv_transpose2d"))
    torch.library.register_vmap("gankernels_native::conv2d_weight_grad", _weight_grad_rule)
