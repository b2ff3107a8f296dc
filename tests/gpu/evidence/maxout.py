"""maxout of a convolution of two pieces: the value with its index, and the gradient, which follows the index.

Two pieces side by side in NHWC: a thread has a pack of pieces and half a pack of results. Triton takes each piece of a
result by itself there.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/cuda/maxout*", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh", "csrc/cuda/together.cuh",
    "gankernels/triton/maxout.py",
)  # fmt: skip
SHAPE, PIECES = (8, 48, 32, 32), 2
RESULTS = 8 * 24 * 32 * 32


def _call(dtype, layout, order):
    def prepare():
        x = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        if order == "value":
            return lambda: ops.maxout(x, PIECES)
        x.requires_grad_()
        if order == "value kept":
            return lambda: ops.maxout(x, PIECES)
        y = ops.maxout(x, PIECES)
        g = torch.randn(y.shape, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, x, g)

    return prepare


def cases():
    """The value reads two numbers a result and writes one, and for autograd a byte; the gradient reads one and a byte
    and writes two."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                last, item = layout == torch.channels_last, dtype.itemsize
                what = f"{str(dtype)[6:]} {'NHWC' if last else 'NCHW'}"
                # Triton's accesses two elements apart: each sector is asked for twice, from the L1 cache at last.
                limits = {"sectors": 2.01, "wide": False} if last and backend == "triton" else {}
                near = ("near",)  # narrow on one side: half a pack of results beside a pack of pieces
                floor = RESULTS * 3 * item
                # PyTorch writes the index as 8 bytes whether or not autograd wants it; its gradient fills with zeros,
                # and then reads index and gradient to write where they say.
                yield Case(
                    backend, f"value {what}", _call(dtype, layout, "value"), floor, floor + 8 * RESULTS, 1, sums=near,
                    **limits,
                )  # fmt: skip
                yield Case(
                    backend, f"value kept {what}", _call(dtype, layout, "value kept"), floor + RESULTS,
                    floor + 8 * RESULTS, 1, sums=near, **limits,
                )  # fmt: skip
                yield Case(
                    backend, f"gradient {what}", _call(dtype, layout, "gradient"), floor + RESULTS,
                    floor + (8 + item) * RESULTS, 1, few=near, **limits,
                )  # fmt: skip
