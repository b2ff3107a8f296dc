"""Adaptive augmentation's sampling of a 64x64 image, upsampled with its margin: through an affine map, and back; and
a grid that learns, as of a spatial transformer."""

import math

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/grid_sample2d.h", "csrc/cuda/grid_sample2d*", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "csrc/cuda/divider.h", "gankernels/triton/grid_sample2d.py",
)  # fmt: skip
N, C, IN, OUT = 2, 3, 190, 138
TURN = torch.tensor([[math.cos(0.3), math.sin(0.3), 0.02], [-math.sin(0.3), math.cos(0.3), -0.01]])


def _image(channels, size, dtype, last=False):
    x = torch.randn(N, channels, size, size, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def _affine(dtype, back):
    def prepare():
        x, theta = _image(C, IN, dtype).requires_grad_(), (OUT / IN * TURN).expand(N, 2, 3).contiguous()
        if not back:
            with torch.no_grad():
                return lambda: ops.affine_grid_sample2d(x.detach(), theta, (OUT, OUT))
        y, gy = ops.affine_grid_sample2d(x, theta, (OUT, OUT)), _image(C, OUT, dtype)
        return lambda: torch.autograd.grad(y, x, gy)

    return prepare


def _grid(dtype, back):
    def prepare():
        x = _image(64, 32, dtype, last=True)
        grid = torch.nn.functional.affine_grid(TURN.expand(N, 2, 3), [N, 64, 32, 32], False).requires_grad_()
        if not back:
            return lambda: ops.grid_sample2d(x, grid.detach())
        y, gy = ops.grid_sample2d(x, grid), _image(64, 32, dtype, last=True)
        return lambda: torch.autograd.grad(y, grid, gy)

    return prepare


def cases():
    """The floor holds the part of x that the map looks at, once. Four pixels are asked for at each point, from the L1
    cache but for the first; neighbours' pixels lie on lines aslant, whose sectors are not full. PyTorch makes the grid
    and reads it."""
    for backend in ("triton", "cuda"):
        points, seen = N * OUT * OUT, N * OUT * OUT
        for dtype in (torch.bfloat16, torch.float32):
            one, what = dtype.itemsize, str(dtype)[6:]
            floor = C * (points + seen) * one
            # A thread also reads its sample's map, 24 bytes beside the 30 or 60 of its pixels.
            yield Case(
                backend, f"affine samples NCHW {what}", _affine(dtype, False), floor, floor + 16 * points, 1,
                requested=4.6, sectors=3.7, wide=False,
            )  # fmt: skip
            # An atomic reads and writes.
            floor = C * (points * one + 2 * seen * 4)
            yield Case(
                backend, f"affine adjoint NCHW {what}", _affine(dtype, True), floor, floor + 16 * points, 1,
                requested=2.7, sectors=2.6, wide=False,
            )  # fmt: skip
            # Here channels lie together: sectors are full. A thread reads its point of the grid.
            points_wide = N * 32 * 32
            floor = 2 * 64 * points_wide * one + 8 * points_wide
            yield Case(
                backend, f"samples NHWC {what}", _grid(dtype, False), floor, floor, 1, requested=2.8,
                sectors=1.1,
            )  # fmt: skip
            yield Case(
                backend, f"grid gradient NHWC {what}", _grid(dtype, True), floor + 8 * points_wide,
                floor + 8 * points_wide, 1, requested=2.8, sectors=1.1, sums=("walk",), registers=96, occupancy=0.25,
            )  # fmt: skip
