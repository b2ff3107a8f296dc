"""Convolutions: a 3x3 layer of a StyleGAN2 block and a 4x4 transposed one of DCGAN, values and both gradients.

Unfused is PyTorch's one convolution, at the floor. A call asks for x once for each tap and tile of channels, for the
weight once for each tile of pixels, in tiles of 64 pixels by half the channels at worst; what is asked for again lies
in the caches. A weight gradient also writes its partial sums, one for each split. In NCHW a tap's pixels start
anywhere, and a phase's taps and pixels lie apart: more sectors than the bytes would need. IEEE float32 is no tensor
core's: where the summed channels are innermost its dots read rows of shared memory two at a time. For it PyTorch copies
the weight of NHWC layers, and both images of NCHW weight gradients, into the order that dots read: not counted here.
"""

import torch
import torch.nn.functional as F
from triton import cdiv

from gankernels import ops
from gankernels.triton.conv2d_weight_grad import splits_of

from .case import Case

SOURCES = ("gankernels/triton/conv2d*.py", "gankernels/ops/conv2d_op.py")
LAYERS = {  # x, weight, arguments, whether transposed
    "3x3": ((2, 64, 32, 32), (64, 64, 3, 3), {"padding": 1}, False),
    "4x4 transposed, stride 2": ((2, 128, 16, 16), (128, 64, 4, 4), {"stride": 2, "padding": 1}, True),
}
VALUE, OF_X, OF_WEIGHT = "value", "gradient of x", "gradient of weight"


def _prepare(layer, call, dtype, layout):
    def prepare():
        x_shape, w_shape, kwargs, transposed = LAYERS[layer]
        f = ops.conv_transpose2d if transposed else ops.conv2d
        x, w = (torch.randn(s).to(dtype).contiguous(memory_format=layout) for s in (x_shape, w_shape))
        if call == VALUE:
            return lambda: f(x, w, **kwargs)
        leaf = (x if call == OF_X else w).requires_grad_()
        y = f(x, w, **kwargs)
        g = torch.randn(y.shape).to(dtype).contiguous(memory_format=layout)
        return lambda: torch.autograd.grad(y, leaf, g)

    return prepare


def _case(layer, call, dtype, layout):
    x_shape, w_shape, kwargs, transposed = LAYERS[layer]
    f = F.conv_transpose2d if transposed else F.conv2d
    y_shape = f(torch.empty(x_shape, device="meta"), torch.empty(w_shape, device="meta"), **kwargs).shape
    small, large = (x_shape, y_shape) if transposed else (y_shape, x_shape)
    taps, stride = w_shape[2] * w_shape[3], kwargs.get("stride", 1)
    pixels, outer, inner = small[0] * small[2] * small[3], small[1], large[1]  # each pixel of `small` meets every tap
    partial = 0
    if call == OF_WEIGHT:
        tile = 64 if dtype.itemsize == 2 else 32
        tiles = cdiv(outer, 64) * cdiv(inner, 64) * taps
        partial = splits_of(pixels, 32 if dtype.itemsize == 2 else 16, tiles) * outer * inner * taps * 4
        asked = pixels * taps * (outer * cdiv(inner, tile) + inner * cdiv(outer, tile)) * dtype.itemsize + partial
    else:
        up = (call == VALUE) == transposed  # the result is `large`
        source, result = (outer, inner) if up else (inner, outer)
        tiles = (stride**2 if up else 1) * cdiv(pixels, 64)
        weights = tiles * outer * inner * (taps // stride**2 if up else taps)
        written = pixels * result * (stride**2 if up else 1)
        asked = (pixels * taps * source * 2 + weights + written) * dtype.itemsize
    floor = sum(torch.Size(s).numel() for s in (x_shape, w_shape, y_shape)) * dtype.itemsize
    last, half = layout == torch.channels_last, dtype.itemsize == 2
    name = f"{layer}, {call}, {str(dtype)[6:]} {'NHWC' if last else 'NCHW'}"
    return Case(
        "triton", name, _prepare(layer, call, dtype, layout), floor, floor, 1,
        requested=1.01 * asked / floor, unique=1.05 + partial / floor, sectors=1.01 if last else 2.3,
        wavefronts=1.1 if half else 2.1, registers=168 if half else 128, occupancy=0.12, dot=half, wide=last,
    )  # fmt: skip


def cases():
    for dtype, layouts in (
        (torch.bfloat16, (torch.channels_last,)),
        (torch.float16, (torch.contiguous_format,)),
        (torch.float32, (torch.channels_last, torch.contiguous_format)),
    ):
        for layout in layouts:
            for layer in LAYERS:
                for call in (VALUE, OF_X, OF_WEIGHT):
                    yield _case(layer, call, dtype, layout)
