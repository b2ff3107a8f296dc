"""adain at a StyleGAN layer: one launch each way where a channel fits on a multiprocessor.

Triton's programs hold their channel in registers; a CUDA block reads it again, out of a cache: what is asked for is
more than the floor, what is touched is not.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/bias_act.h", "csrc/host_device.h", "csrc/batch_norm_act.h", "csrc/cuda/batch_norm_act*",
    "csrc/cuda/channel_sums.cuh", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "gankernels/triton/batch_norm_act.py", "gankernels/triton/instance_norm_act.py",
    "gankernels/triton/channel_sums.py", "gankernels/triton/activations.py",
)  # fmt: skip
SHAPE = (4, 64, 64, 64)
NUMEL = 4 * 64 * 64 * 64


def _inputs(dtype):
    return torch.randn(SHAPE, dtype=dtype, requires_grad=True), *torch.rand(2, *SHAPE[:2], requires_grad=True).unbind()


def _forward(dtype):
    def prepare():
        x, scale, shift = (t.detach() for t in _inputs(dtype))
        return lambda: ops.adain(x, scale, shift)

    return prepare


def _backward(dtype):
    def prepare():
        x, *parameters = _inputs(dtype)
        scale, shift = (t.detach().requires_grad_() for t in parameters)
        y = ops.adain(x, scale, shift)
        g = torch.randn(SHAPE, dtype=dtype)
        return lambda: torch.autograd.grad(y, [x, scale, shift], g)

    return prepare


def cases():
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            size, what, cuda = NUMEL * dtype.itemsize, str(dtype)[6:], backend == "cuda"
            limits = {"registers": 128, "occupancy": 0.25}
            # PyTorch: a normalisation reads x twice and writes one, which scale and shift read, and write another.
            yield Case(
                backend, f"forward {what}", _forward(dtype), 2 * size, 5 * size, 1,
                requested=1.6 if cuda else 1.25, **limits,
            )  # fmt: skip
            # PyTorch: the product by scale, two sums, and the normalisation's own backward.
            yield Case(
                backend, f"backward {what}", _backward(dtype), 3 * size, 11 * size, 1,
                requested=1.75 if cuda else 1.25, **limits,
            )  # fmt: skip
