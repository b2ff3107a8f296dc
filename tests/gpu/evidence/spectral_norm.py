"""spectral_norm of three weights of a discriminator together: an iteration with the division, and the gradient."""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/spectral_norm.h", "csrc/cuda/spectral_norm*", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "csrc/cuda/per_sample.cuh", "gankernels/triton/spectral_norm*.py",
)  # fmt: skip
SHAPES = ((128, 64, 4, 4), (128, 128, 3, 3), (64, 512))
NUMEL = 128 * 1024 + 128 * 1152 + 64 * 512
VECTORS = 4 * (128 + 128 + 64 + 1024 + 1152 + 512)


def _prepare(dtype, backward: bool):
    def prepare():
        weights = [torch.randn(s, dtype=dtype).requires_grad_(backward) for s in SHAPES]
        us = [torch.nn.functional.normalize(torch.randn(s[0]), dim=0) for s in SHAPES]
        vs = [torch.nn.functional.normalize(torch.randn(w[0].numel()), dim=0) for w in weights]
        if not backward:
            return lambda: ops.spectral_norm(weights, us, vs)
        ys, _, _ = ops.spectral_norm(weights, us, vs)
        gs = [torch.randn_like(y) for y in ys]
        return lambda: torch.autograd.grad(ys, weights, gs)

    return prepare


SUMS = ("_rows", "_columns", "_dots")


def cases():
    """W v, W^T u and the division read W each, the last writes. The gradient sums g W, then reads g and writes.

    Every program of W^T u reads the whole of u for its strip of columns, of which every thread takes its row's number.
    The gradient asks for four bytes of v, from L1, beside the weight's two or four. Triton's packing of the weights is
    PyTorch's copy, not counted.
    """
    limits = dict(registers=80, occupancy=0.37, sums=SUMS)
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            size, what = NUMEL * dtype.itemsize, str(dtype)[6:]
            # PyTorch reads W for each of two products, of u^T W v, of the division, and writes; each on its own.
            yield Case(
                backend, f"forward {what}", _prepare(dtype, False), 4 * size + 2 * VECTORS, 5 * size + 6 * VECTORS, 3,
                requested=1.7, **limits,
            )  # fmt: skip
            # PyTorch: g W and its sum, g / sigma, u v^T, their difference.
            yield Case(
                backend, f"backward {what}", _prepare(dtype, True), 4 * size + VECTORS, 13 * size, 2,
                requested=1.85, **limits,
            )  # fmt: skip
