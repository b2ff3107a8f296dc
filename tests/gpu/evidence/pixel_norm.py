"""pixel_norm at 128 channels, as a ProgressiveGAN layer has: the value, its gradient and the second derivative.

A vector's sum comes before its first output, so each launch walks over its tensors twice. The second walk finds them in
the caches: a block's vectors are at most 64 KiB of each tensor.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/pixel_norm.h", "csrc/host_device.h", "csrc/cuda/pixel_norm*", "csrc/cuda/divider.h", "csrc/cuda/launch.h",
    "csrc/cuda/pack.cuh", "gankernels/triton/pixel_norm.py",
)  # fmt: skip
SHAPE = (2, 128, 16, 32)
NUMEL = 2 * 128 * 16 * 32


def _prepare(dtype, layout, order):
    def prepare():
        x, gy, v = (torch.randn(SHAPE).to(dtype).contiguous(memory_format=layout) for _ in range(3))
        if order == 0:
            return lambda: ops.pixel_norm(x)
        y = ops.pixel_norm(x.requires_grad_())
        if order == 1:
            return lambda: torch.autograd.grad(y, x, gy)
        (first,) = torch.autograd.grad(y, x, gy.requires_grad_(), create_graph=True)
        return lambda: torch.autograd.grad(first, [x, gy], v)

    return prepare


def cases():
    """Order k reads k + 1 tensors and writes one, or for the second order two; it asks for what it reads twice."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                size = NUMEL * dtype.itemsize
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                # PyTorch: squares, their mean, the product; and of each as much backwards as autograd makes of it.
                for order, name, reads, writes, plain in (
                    (0, "forward", 1, 1, 5), (1, "backward", 2, 1, 11), (2, "second", 3, 2, 27),
                ):  # fmt: skip
                    # The second derivative has four sums and two results in flight. Turing has no instructions for
                    # bfloat16: what stands for them takes up to 86 registers, of which its 1024 threads have more.
                    kept = dict(registers=128, occupancy=0.25) if order == 2 else dict(registers=88)
                    yield Case(
                        backend, f"{name} {what}", _prepare(dtype, layout, order), (reads + writes) * size,
                        plain * size, 1, requested=1.01 * (2 * reads + writes) / (reads + writes), **kept,
                    )  # fmt: skip
