"""minibatch_stddev before the last block of a discriminator: 512 channels of 4x4, groups of four.

A group's deviation is a mean over all of its samples' positions and goes to planes beside what is copied: one launch
sums and copies, another finishes the sums and fills the planes. Backwards one launch adds up the planes of gy first. In
one launch a single block would have a group's 2 MiB at 1024 pixels, and most of a GPU would wait for it.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/minibatch_stddev.h", "csrc/host_device.h", "csrc/cuda/minibatch_stddev*", "csrc/cuda/divider.h",
    "csrc/cuda/launch.h", "csrc/cuda/pack.cuh", "gankernels/triton/minibatch_stddev.py",
)  # fmt: skip
SHAPE, GROUP = (16, 512, 4, 4), 4
NUMEL, PLANES = 16 * 512 * 4 * 4, 16 * 4 * 4


def _prepare(dtype, layout, order):
    def prepare():
        x, v = (torch.randn(SHAPE).to(dtype).contiguous(memory_format=layout) for _ in range(2))
        if order == 0:
            return lambda: ops.minibatch_stddev(x, GROUP)
        y = ops.minibatch_stddev(x.requires_grad_(), GROUP)
        gy = torch.randn(y.shape).to(dtype).contiguous(memory_format=layout)
        if order == 1:
            return lambda: torch.autograd.grad(y, x, gy)
        (first,) = torch.autograd.grad(y, x, gy.requires_grad_(), create_graph=True)
        return lambda: torch.autograd.grad(first, [x, gy], v)

    return prepare


def _limits(backend, last, order):
    """In NHWC rows of y are 513 numbers, at odd addresses: a number a lane, and a sector more a request.

    In Triton each sample of a group asks for the group's first, too. A group's four samples stay in registers as they
    lie in memory, for the second derivative those of two tensors.
    """
    kept = dict(registers=128, occupancy=0.25) if order == 2 else dict(registers=80, occupancy=0.37)
    return dict(requested=1.15 if backend == "triton" else 1.05, sectors=1.3 if last else 1.01, **kept)


def cases():
    """Forward reads x and writes y; backward reads x and gy and writes gx; the second reads v, x and the planes of gy,
    and writes derivatives by gy and x."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                size, planes = NUMEL * dtype.itemsize, PLANES * dtype.itemsize
                last = layout == torch.channels_last
                what = f"{str(dtype)[6:]} {'NHWC' if last else 'NCHW'}"
                # PyTorch: the mean, differences, squares, their mean, the root and its mean, expanded, and the copy.
                for order, name, launches, floor, plain in (
                    (0, "forward", 2, 2 * size + planes, 8 * size),
                    (1, "backward", 2, 3 * size + planes, 14 * size),
                    (2, "second", 3, 4 * size + 2 * planes, 30 * size),
                ):
                    yield Case(
                        backend, f"{name} {what}", _prepare(dtype, layout, order), floor, plain, launches,
                        few=("_fill", "_scales", "_plane_sums"), wide=not last, **_limits(backend, last, order),
                    )  # fmt: skip
