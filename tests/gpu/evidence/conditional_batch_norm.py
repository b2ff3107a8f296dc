"""conditional_batch_norm at a BigGAN layer: as batch_norm_act, with a small launch between backward's two."""

import torch

from gankernels import ops

from .batch_norm_act import SOURCES as _SOURCES
from .case import Case

SOURCES = (*_SOURCES, "gankernels/triton/norm_sets.py")
SHAPE = (8, 64, 32, 32)
NUMEL = 8 * 64 * 32 * 32


def _call(dtype, backward):
    def prepare():
        x = torch.randn(SHAPE, dtype=dtype, requires_grad=backward)
        scale, shift = (torch.rand(SHAPE[:2], requires_grad=backward) for _ in range(2))

        def run():
            return ops.conditional_batch_norm(x, scale, shift, None, None, training=True, act="relu")

        if not backward:
            return run
        y, g = run(), torch.randn(SHAPE, dtype=dtype)
        return lambda: torch.autograd.grad(y, [x, scale, shift], g)

    return prepare


def cases():
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            size, what = NUMEL * dtype.itemsize, str(dtype)[6:]
            # Every block reads its channels' sums and numbers, beside few elements of each sample.
            limits = {
                "requested": 1.6, "registers": 128, "occupancy": 0.25, "sums": ("_reduce", "reduce_moments", "combine"),
            }  # fmt: skip
            # PyTorch: x twice and xh, then xh read and y written, relu in place; backward as adain's with relu's.
            yield Case(backend, f"forward {what}", _call(dtype, False), 3 * size, 7 * size, 2, **limits)
            yield Case(backend, f"backward {what}", _call(dtype, True), 5 * size, 14 * size, 3, wide=False, **limits)
