"""The convolutions of ``conv2d_gradfix``, and its block without weight gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from gankernels import ops


class Convolutions:
    """What a module ``conv2d_gradfix`` offers.

    The published `no_weight_gradients` saves the weight gradients of ``torch.autograd.grad(y, [x])``, which ours never
    compute. What it also promises, that a backward pass inside the block leaves the weights alone, is kept here: in
    all threads, for backward passes of CUDA tensors run in another.
    """

    def __init__(self) -> None:
        self._weights_left_alone = False

    @contextlib.contextmanager
    def no_weight_gradients(self, disable: bool = True) -> Iterator[None]:
        """A backward pass that runs inside gives no gradient to the weights of these convolutions."""
        before = self._weights_left_alone
        self._weights_left_alone = before or bool(disable)
        try:
            yield
        finally:
            self._weights_left_alone = before

    def conv2d(self, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        """`gankernels.ops.conv2d`."""
        return ops.conv2d(input, self.gated(weight), bias, stride, padding, dilation, groups)

    def conv_transpose2d(self, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        """`gankernels.ops.conv_transpose2d`."""
        return ops.conv_transpose2d(input, self.gated(weight), bias, stride, padding, output_padding, groups, dilation)

    def gated(self, weight: Tensor) -> Tensor:
        """`weight`, whose gradient is dropped where it arrives inside `no_weight_gradients`."""
        if isinstance(weight, Tensor) and weight.requires_grad and torch.is_grad_enabled():
            return _Gated.apply(weight, self)
        return weight

    def _gate(self, g: Tensor) -> Tensor | None:
        return None if self._weights_left_alone else g


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, convolutions):
        ctx.gate = convolutions._gate
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, g):
        return ctx.gate(g), None
