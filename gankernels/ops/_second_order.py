"""Autograd of Triton operators of one tensor and two numbers, as csrc/second_order.h has it for the compiled ones."""

from __future__ import annotations

import torch

from gankernels import _pruning


def register_autograd(name: str) -> None:
    """Ties gankernels::`name` (x, a, b), `name`_backward (g, x, a, b) and `name`_double_backward (v, g, x, a, b,
    wanted of g and x) together; the third derivative raises by name."""

    def derivative(suffix: str):
        return getattr(torch.ops.gankernels, name + suffix)

    def keep(tensors: int):
        def setup(ctx, inputs, output):
            ctx.numbers = inputs[tensors:]
            ctx.save_for_backward(*inputs[:tensors])

        return setup

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return derivative("_backward")(g, x, *ctx.numbers), None, None

    def double_backward(ctx, v):
        wanted = _pruning.wanted(ctx, True, True)
        outs = derivative("_double_backward")(v, *ctx.saved_tensors, *ctx.numbers, wanted)
        return (*(out if want else None for out, want in zip(outs, wanted, strict=True)), None, None)

    def third(ctx, *grads):
        raise RuntimeError(
            f"{name}: the derivative of order 3 is not supported by the compiled backends; use "
            "gankernels.backend('reference')"
        )

    torch.library.register_autograd(f"gankernels::{name}", backward, setup_context=keep(1))
    torch.library.register_autograd(f"gankernels::{name}_backward", double_backward, setup_context=keep(2))
    torch.library.register_autograd(f"gankernels::{name}_double_backward", third)
