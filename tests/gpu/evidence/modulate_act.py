"""modulate_act as the epilogue of a StyleGAN2 layer: demodulation, noise, bias, lrelu, clamp; values, all gradients.

Sums of blocks for the gradients of scale, bias and noise are written beside, and added up by PyTorch.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/bias_act.h", "csrc/host_device.h", "csrc/modulate_act*", "csrc/cuda/modulate_act*",
    "csrc/cuda/activate.cuh", "csrc/cuda/block_sums.cuh", "csrc/cuda/channel_sums.cuh", "csrc/cuda/divider.h",
    "csrc/cuda/launch.h", "csrc/cuda/pack.cuh", "csrc/cuda/together.cuh", "csrc/cuda/walk_plan.h",
    "gankernels/triton/modulate_act.py", "gankernels/triton/activations.py",
)  # fmt: skip
SHAPE = (8, 64, 64, 64)
NUMEL, NUMBERS = 8 * 64 * 64 * 64, 8 * 64 + 64 + 64 * 64


def _inputs(dtype, layout):
    x = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
    return [t.requires_grad_() for t in (x, torch.rand(8, 64), torch.randn(64), torch.randn(64, 64))]


def _call(x, scale, bias, noise):
    return ops.modulate_act(x, scale, bias, noise=noise, act="lrelu", clamp=256.0)


def _forward(dtype, layout):
    def prepare():
        tensors = [t.detach() for t in _inputs(dtype, layout)]
        return lambda: _call(*tensors)

    return prepare


def _backward(dtype, layout):
    def prepare():
        tensors = _inputs(dtype, layout)
        y = _call(*tensors)
        g = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, tensors, g)

    return prepare


def cases():
    """Forward reads x and writes y; backward reads x and gy, and writes gx and the sums.

    Every block asks for its numbers along the inner axis: float32 beside 16 bits, of two kinds in NHWC.
    """
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                size, numbers = NUMEL * dtype.itemsize, NUMBERS * 4
                most = 2.2 if layout == torch.channels_last else 1.8
                # CUDA's lanes ask for 32 bytes of noise each in two accesses.
                sectors = 1.2 if backend == "cuda" and layout == torch.contiguous_format else 1.01
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                # PyTorch: scale, noise, bias, lrelu, gain and clamp each read a tensor and write one.
                yield Case(
                    backend, f"forward {what}", _forward(dtype, layout), 2 * size + numbers, 12 * size + numbers, 1,
                    requested=most, sectors=sectors, registers=96, occupancy=0.25,
                )  # fmt: skip
                # PyTorch: backward of clamp, lrelu and scale reads two tensors and writes one, gain's one; four sums.
                yield Case(
                    backend, f"backward {what}", _backward(dtype, layout), 3 * size + 2 * numbers,
                    15 * size + 2 * numbers, 1, requested=most, sectors=sectors, unique=1.1, registers=128,
                    occupancy=0.25,
                )  # fmt: skip
