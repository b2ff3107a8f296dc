"""bias_act at the shape of a StyleGAN2 layer: lrelu with bias, gain and clamp, values and both gradients."""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/bias_act.h", "csrc/host_device.h", "csrc/cuda/bias_act*", "csrc/cuda/divider.h", "csrc/cuda/launch.h",
    "csrc/cuda/pack.cuh", "gankernels/triton/bias_act.py", "gankernels/triton/activations.py",
)  # fmt: skip
SHAPE = (8, 64, 64, 64)
NUMEL, CHANNELS = 8 * 64 * 64 * 64, 64


def _inputs(dtype, layout):
    x = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    return x, torch.randn(CHANNELS, dtype=dtype, requires_grad=True)


def _forward(dtype, layout):
    def prepare():
        x, b = (t.detach() for t in _inputs(dtype, layout))
        return lambda: ops.bias_act(x, b, act="lrelu", clamp=256.0)

    return prepare


def _backward(dtype, layout):
    def prepare():
        x, b = _inputs(dtype, layout)
        y = ops.bias_act(x, b, act="lrelu", clamp=256.0)
        g = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, [x, b], g)

    return prepare


def cases():
    """Forward reads x and writes y; backward reads x and gy and writes gx, and reduces what it wrote."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                item = dtype.itemsize
                size, bias = NUMEL * item, CHANNELS * item
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                # A thread reads the bias of its pack: 2 bytes in 16 of NCHW, as many as of x in NHWC.
                # PyTorch: x + b, lrelu, gain and clamp each read a tensor and write one.
                yield Case(
                    backend, f"forward {what}", _forward(dtype, layout), 2 * size + bias, 8 * size + bias, 1,
                    requested=1.6, registers=48, occupancy=0.6,
                )  # fmt: skip
                # In NHWC each block reads the biases of its channels, and writes as many sums.
                # PyTorch: the backward of clamp and lrelu reads two tensors and writes one, gain's one; then the sum.
                yield Case(
                    backend, f"backward {what}", _backward(dtype, layout), 3 * size + 2 * bias, 9 * size + bias,
                    1 if backend == "triton" else 2, requested=1.25, registers=80, occupancy=0.33,
                    sums=("_sums",), few=("_sums",),
                )  # fmt: skip
