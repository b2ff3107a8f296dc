"""Convolutions: a 3x3 layer of a StyleGAN2 block and a 4x4 transposed one of DCGAN, values and both gradients.

Unfused is one PyTorch convolution, which moves the floor at least. Requested bytes count a tap each time it is read:
with tiles of `pixels` by `channels`, x is asked for taps / strides times for each tile of channels and the weight once
for each tile of pixels; the caches hold what is asked for again.
"""

import torch
import torch.nn.functional as F

from gankernels import ops

from .case import Case

SOURCES = ("gankernels/triton/conv2d*.py", "gankernels/ops/conv2d_op.py")
LAYERS = {  # x, weight, arguments, whether transposed
    "3x3": ((2, 64, 32, 32), (64, 64, 3, 3), {"padding": 1}, False),
    "4x4 transposed, stride 2": ((2, 128, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}, True),
}
CALLS = ("value", "gradient of x", "gradient of weight")


def _prepare(layer, call, dtype, layout):
    def prepare():
        x_shape, w_shape, kwargs, transposed = LAYERS[layer]
        f = ops.conv_transpose2d if transposed else ops.conv2d
        x, w = (torch.randn(s).to(dtype).contiguous(memory_format=layout) for s in (x_shape, w_shape))
        if call == "value":
            return lambda: f(x, w, **kwargs)
        leaf = (x if call == "gradient of x" else w).requires_grad_()
        y = f(x, w, **kwargs)
        g = torch.randn(y.shape).to(dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, leaf, g)

    return prepare


def _case(layer, call, dtype, layout, **limits):
    x_shape, w_shape, kwargs, transposed = LAYERS[layer]
    f = F.conv_transpose2d if transposed else F.conv2d
    y = f(torch.empty(x_shape, device="meta"), torch.empty(w_shape, device="meta"), **kwargs)
    floor = (torch.Size(x_shape).numel() + torch.Size(w_shape).numel() + y.numel()) * dtype.itemsize
    name = f"{layer}, {call}, {str(dtype)[6:]} {'NHWC' if layout == torch.channels_last else 'NCHW'}"
    prepare = _prepare(layer, call, dtype, layout)
    return Case("triton", name, prepare, floor, floor, 1, dot=dtype.itemsize == 2, **limits)


def cases():
    for layout in (torch.channels_last, torch.contiguous_format):
        for layer in LAYERS:
            for call in CALLS:
                for dtype in (torch.bfloat16, torch.float16, torch.float32):
                    yield _case(layer, call, dtype, layout, requested=99.0, registers=255, occupancy=0.1)
