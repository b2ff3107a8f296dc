"""pixel_shuffle_act as a layer of a sub-pixel convolution's upsampling by two: bias and lrelu, values, both gradients
and the second derivative of swish.

A permutation has one side in smaller pieces: of x in NCHW, where two planes make a row of y; of y in NHWC, where four
channels go to four pixels.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = (
    "csrc/bias_act.h", "csrc/host_device.h", "csrc/cuda/pixel_shuffle_act*", "csrc/cuda/activate.cuh",
    "csrc/cuda/channel_sums.cuh", "csrc/cuda/divider.h", "csrc/cuda/launch.h", "csrc/cuda/pack.cuh",
    "csrc/cuda/together.cuh",
    "gankernels/triton/pixel_shuffle_act.py", "gankernels/triton/activations.py",
)  # fmt: skip
SHAPE, FACTOR = (4, 64, 32, 32), 2
NUMEL, CHANNELS = 4 * 64 * 32 * 32, 64


def _call(dtype, layout, order):
    def prepare():
        x = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        bias = torch.randn(CHANNELS, dtype=dtype)
        act = "swish" if order == "second" else "lrelu"
        if order == "value":
            return lambda: ops.pixel_shuffle_act(x, FACTOR, bias, act=act)
        leaves = x.requires_grad_(), bias.requires_grad_()
        y = ops.pixel_shuffle_act(x, FACTOR, bias, act=act)
        g = torch.randn(y.shape, dtype=dtype).contiguous(memory_format=layout)
        if order == "gradients":
            return lambda: torch.autograd.grad(y, leaves, g)
        (first,) = torch.autograd.grad(y, x, g.requires_grad_(), create_graph=True)
        v = torch.randn(SHAPE, dtype=dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(first, [g, x], v)

    return prepare


def cases():
    """The value reads x and writes y; the gradients read y and its gradient and write that of x; the second reads v, g
    and x and writes what goes to g and to x."""
    for backend in ("triton", "cuda"):
        for dtype in (torch.bfloat16, torch.float32):
            for layout in (torch.contiguous_format, torch.channels_last):
                last, size, bias = layout == torch.channels_last, NUMEL * dtype.itemsize, CHANNELS * dtype.itemsize
                what = f"{str(dtype)[6:]} {'NHWC' if last else 'NCHW'}"
                # In NHWC neighbouring threads, not a thread, write and read neighbours of y: 2 bytes by 2 in bfloat16.
                limits = {"wide": False, "sectors": 1.75 if last else 1.01, "requested": 1.15}
                # PyTorch: the sum with the bias, lrelu, gain, shuffle: each reads a tensor and writes one.
                yield Case(
                    backend, f"value {what}", _call(dtype, layout, "value"), 2 * size + bias, 8 * size, 1,
                    registers=88, occupancy=0.33, **limits,
                )  # fmt: skip
                yield Case(
                    backend, f"gradients {what}", _call(dtype, layout, "gradients"), 3 * size + bias, 9 * size, 1,
                    registers=104, occupancy=0.25, **limits,
                )  # fmt: skip
                yield Case(
                    backend, f"second {what}", _call(dtype, layout, "second"), 5 * size + bias, 16 * size, 1,
                    registers=128, occupancy=0.25, **limits,
                )  # fmt: skip
