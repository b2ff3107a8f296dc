"""add_noise as a layer of StyleGAN: noise of every sample, a strength of every channel.

The gradient of x is that of the result, which costs nothing. A block's sums are written beside; PyTorch adds them up.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/cuda/add_noise*", "csrc/cuda/block_sums.cuh", "csrc/cuda/channel_sums.cuh", "csrc/cuda/launch.h",
    "csrc/cuda/pack.cuh", "csrc/cuda/together.cuh", "csrc/cuda/walk_plan.h", "gankernels/triton/add_noise.py",
)  # fmt: skip
N, C, SIZE = 4, 64, 64
NUMEL, NOISE = N * C * SIZE**2, N * SIZE**2


def _call(dtype, layout, order):
    def prepare():
        x = torch.randn(N, C, SIZE, SIZE, dtype=dtype).contiguous(memory_format=layout)
        noise, strength = torch.randn(N, 1, SIZE, SIZE, dtype=dtype), torch.randn(C, dtype=dtype)
        if order == "value":
            return lambda: ops.add_noise(x, noise, strength)
        leaves = noise.requires_grad_(), strength.requires_grad_()
        y = ops.add_noise(x, noise, strength)
        g = torch.randn(y.shape, dtype=dtype).contiguous(memory_format=layout)
        if order == "gradient":
            return lambda: torch.autograd.grad(y, strength, g)
        return lambda: torch.autograd.grad(y, leaves, g)

    return prepare


def cases():
    """The value reads x and noise and writes y; the gradients of noise and strength read that of y."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                item = dtype.itemsize
                size, noise, strength = NUMEL * item, NOISE * item, C * item
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                # Every block reads noise and strengths again; a thread its row's beside 16 bytes of x.
                limits = {"requested": 1.7, "sums": ("sums", "_noise"), "sectors": 1.1}
                # PyTorch: noise times strength is written and read; that times the gradient, and its sums.
                yield Case(
                    backend, f"value {what}", _call(dtype, layout, "value"), 2 * size + noise + strength, 4 * size, 1,
                    requested=1.65,
                )  # fmt: skip
                yield Case(
                    backend, f"strength {what}", _call(dtype, layout, "gradient"), size + noise + strength,
                    3 * size + noise, 1, **limits,
                )  # fmt: skip
                yield Case(
                    backend, f"noise and strength {what}", _call(dtype, layout, "both"),
                    size + 2 * noise + 2 * strength, 6 * size + 2 * noise, 1, **limits,
                )  # fmt: skip
