"""fade_in as ProGAN's generator fades in a resolution: an image, and one of half its sides that is enlarged.

The gradients of both images are one pass over that of the result. A learned alpha, which ProGAN has not, takes both
images too; a block's sum is written beside, PyTorch adds them up.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/cuda/fade_in*", "csrc/cuda/channel_sums.cuh", "csrc/cuda/divider.h", "csrc/cuda/launch.h",
    "csrc/cuda/pack.cuh", "csrc/cuda/together.cuh", "gankernels/triton/fade_in.py",
)  # fmt: skip
N, C, SIZE = 4, 16, 128
NUMEL = N * C * SIZE**2


def _call(dtype, layout, order):
    def prepare():
        image, lower = (
            torch.randn(N, C, size, size, dtype=dtype).contiguous(memory_format=layout) for size in (SIZE, SIZE // 2)
        )
        alpha = torch.tensor(0.3, dtype=dtype)
        if order == "value":
            return lambda: ops.fade_in(image, lower, alpha)
        leaves = [image.requires_grad_(), lower.requires_grad_()]
        leaves += [alpha.requires_grad_()] if order == "all" else []
        y = ops.fade_in(image, lower, alpha)
        g = torch.randn(y.shape, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, leaves, g)

    return prepare


def cases():
    """2.25 images: the value reads one and a quarter and writes one, the gradients the other way round."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                size, low = NUMEL * dtype.itemsize, NUMEL * dtype.itemsize // 4
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                floor = 2 * size + low
                # Every thread reads alpha: 4 bytes beside 72 of images.
                limits = {"requested": 1.06} if backend == "cuda" else {}
                # PyTorch writes the enlarged image and reads it; backward, its gradient.
                for order in ("value", "gradients"):
                    run = _call(dtype, layout, order)
                    yield Case(backend, f"{order} {what}", run, floor, 4 * size + low, 1, **limits)
                # And the enlarged image again, the difference of both, its product with the gradient, the sum of that.
                yield Case(
                    backend, f"gradients and alpha {what}", _call(dtype, layout, "all"), floor + size + low,
                    11 * size + 2 * low, 1,
                )  # fmt: skip
