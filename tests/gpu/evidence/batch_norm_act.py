"""batch_norm_act at the shape of a DCGAN layer: lrelu with weight and bias, training; evaluation in the forward pass.

The first output of a training batch norm needs the whole of its input, which no multiprocessor holds: two launches, and
the floor counts what both read (x, or x and gy) twice.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/bias_act.h", "csrc/host_device.h", "csrc/batch_norm_act.h", "csrc/cuda/batch_norm_act*",
    "csrc/cuda/channel_sums.cuh", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "gankernels/triton/batch_norm_act.py", "gankernels/triton/channel_sums.py", "gankernels/triton/activations.py",
)  # fmt: skip
SHAPE = (16, 128, 32, 32)
NUMEL, CHANNELS = 16 * 128 * 32 * 32, 128


def _inputs(dtype, layout):
    x = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    return x, torch.rand(CHANNELS, requires_grad=True), torch.rand(CHANNELS, requires_grad=True)


def _forward(dtype, layout, training):
    def prepare():
        x, w, b = (t.detach() for t in _inputs(dtype, layout))
        running = (None, None) if training else (torch.zeros(CHANNELS), torch.ones(CHANNELS))
        return lambda: ops.batch_norm_act(x, w, b, *running, training=training, act="lrelu")

    return prepare


def _backward(dtype, layout):
    def prepare():
        tensors = _inputs(dtype, layout)
        y = ops.batch_norm_act(*tensors, None, None, training=True, act="lrelu")
        g = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, tensors, g)

    return prepare


def cases():
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                size = NUMEL * dtype.itemsize
                what = f"{str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
                # Where channels are side by side each block of the second launch reads the sums of every split of its
                # strip of channels; in Triton every thread asks for the numbers of its channels by itself.
                limits = {
                    "requested": 1.15 if backend == "cuda" else 1.3, "registers": 128, "occupancy": 0.25,
                    "sums": ("_reduce", "reduce_moments"),
                }  # fmt: skip
                # PyTorch: its batch norm is as ours, and then lrelu reads a tensor and writes one.
                yield Case(backend, f"forward {what}", _forward(dtype, layout, True), 3 * size, 5 * size, 2, **limits)
                yield Case(
                    backend, f"evaluation {what}", _forward(dtype, layout, False), 2 * size, 4 * size, 1, **limits
                )
                # lrelu's backward reads two tensors and writes one, batch norm's reads two twice and writes one.
                yield Case(backend, f"backward {what}", _backward(dtype, layout), 5 * size, 8 * size, 2, **limits)
