"""The sums over a sample at an R1 step of 64x64 images: squares, the first and second derivative of the norm.

The second derivative's first output needs <v, x> over a whole sample, which no multiprocessor holds at the sizes
of images (two float32 tensors of 3x1024x1024 are 24 MiB): two launches, and its floor counts what both read, v and x,
twice.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/per_sample.h", "csrc/cuda/per_sample*", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "gankernels/triton/per_sample.py",
)  # fmt: skip
SHAPE = (32, 3, 64, 64)
SAMPLES, NUMEL = 32, 32 * 3 * 64 * 64


def _squares(dtype):
    def prepare():
        x = torch.randn(SHAPE, dtype=dtype)
        return lambda: ops.sum_squares_per_sample(x)

    return prepare


def _norm(dtype, second: bool):
    def prepare():
        x = torch.randn(SHAPE, dtype=dtype).requires_grad_()
        gy = torch.randn(SAMPLES).requires_grad_()
        y = ops.norm_per_sample(x)
        if not second:
            return lambda: torch.autograd.grad(y, x, gy)
        (first,) = torch.autograd.grad(y, x, gy, create_graph=True)
        v = torch.randn(SHAPE, dtype=dtype)
        return lambda: torch.autograd.grad(first, [x, gy], v)

    return prepare


SUMS = ("_sums",)


def cases():
    """The sum reads x. The gradient reads x and writes one like it. The second reads x and v twice, and writes one."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            size, wide, what = NUMEL * dtype.itemsize, NUMEL * 4, str(dtype)[6:]
            few = SAMPLES * 4
            convert = 0 if dtype == torch.float32 else size + wide
            # PyTorch: the squares are written and read again, in float32.
            yield Case(backend, f"squares {what}", _squares(dtype), size + few, convert + 3 * wide, 1, sums=SUMS)
            # Every thread reads its sample's two numbers, 8 bytes beside the 16 or 32 of x and the result.
            yield Case(
                backend, f"norm backward {what}", _norm(dtype, False), 2 * size + 2 * few, 2 * convert + 2 * wide, 1,
                requested=1.3,
            )  # fmt: skip
            # PyTorch: v x and its sum, v scaled, x scaled, their sum.
            yield Case(
                backend, f"norm second {what}", _norm(dtype, True), 5 * size + 4 * few, 3 * convert + 11 * wide, 2,
                requested=1.25, registers=80, occupancy=0.37, sums=SUMS,
            )  # fmt: skip
