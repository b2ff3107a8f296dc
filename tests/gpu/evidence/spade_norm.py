"""spade_norm at a GauGAN layer, training: two launches each way; the floor counts what both read twice."""

import torch

from gankernels import ops

from .case import Case
from .conditional_batch_norm import SOURCES as _SOURCES

SOURCES = (*_SOURCES, "gankernels/triton/spade_norm.py")
SHAPE = (2, 64, 64, 64)
NUMEL = 2 * 64 * 64 * 64


def _call(dtype, backward):
    def prepare():
        x, scale, shift = (torch.randn(SHAPE, dtype=dtype, requires_grad=backward) for _ in range(3))

        def run():
            return ops.spade_norm(x, scale, shift, training=True, act="lrelu")

        if not backward:
            return run
        y, g = run(), torch.randn(SHAPE, dtype=dtype)
        return lambda: torch.autograd.grad(y, [x, scale, shift], g)

    return prepare


def cases():
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            size, what = NUMEL * dtype.itemsize, str(dtype)[6:]
            # Packs of four elements: eight bytes of 16-bit numbers.
            limits = {
                "requested": 1.3, "registers": 128, "occupancy": 0.25, "sums": ("_reduce", "reduce_moments"),
                "wide": dtype == torch.float32,
            }  # fmt: skip
            # PyTorch: x twice and xh; 1 + scale; the product and sum of three and lrelu. Backward: lrelu's, the two
            # products, batch norm's.
            yield Case(backend, f"forward {what}", _call(dtype, False), 5 * size, 11 * size, 2, **limits)
            yield Case(backend, f"backward {what}", _call(dtype, True), 11 * size, 14 * size, 2, **limits)
