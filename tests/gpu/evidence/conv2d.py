"""Convolutions: a 3x3 layer of a StyleGAN2 block and a 4x4 transposed one of DCGAN, values and both gradients.

Unfused is PyTorch's one convolution, at the floor. A call asks for x once for each tap and tile of channels, for the
weight once for each tile of pixels, in tiles of 64 pixels by half the channels at worst; what is asked for again lies
in the caches. A weight gradient also writes its partial sums, one for each split. IEEE float32 is no tensor core's; for
it PyTorch copies the weight of NHWC layers, and both images of NCHW weight gradients, into the order that dots read:
not counted here. A call runs one of its tiles, drawn; compiled are all.

Sectors in NCHW: x, the result and a weight read as it lies are ideal. Not so, and the limit is then what the addresses
of a request's 32 lanes give: pixels two apart, of the image that a stride of 2 skips through, 2; a phase's taps, every
second one each way of a contiguous weight, 4; and the weight that is read along its outer axis, in runs of 9 numbers.
"""

from itertools import product

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


def weight_sectors(taps, of, channels, run, item, block):
    """Sectors over the ideal of loads of a weight [summed, channels, of taps] for `taps` of each channel.

    A request is `run` neighbours on the axis of summed channels and taps, by 32 / `run` channels.
    """
    touched = requests = 0
    across = 32 // run
    for k, c in product(range(0, block * len(taps), run), range(0, channels, across)):
        places = product(range(k, k + run), range(c, c + across))
        at = {((q // len(taps) * channels + i) * of + taps[q % len(taps)]) * item // 32 for q, i in places}
        touched, requests = touched + len(at), requests + 1
    return touched / requests / item


def sectors_of_tile(pixels, channels, summed, x=1.0, weight=1.0, y=1.0):
    """Sectors over the ideal of a tile of the result, from those of its loads and of its store."""
    parts = pixels * summed, channels * summed, pixels * channels
    return sum(n * r for n, r in zip(parts, (x, weight, y), strict=True)) / sum(parts)


def _nchw_sectors(layer, call, dtype):
    """The limit of a call, at the tile that it draws."""
    half, item = dtype.itemsize == 2, dtype.itemsize
    block = 32 if half else 16
    if layer == "3x3":
        if call != OF_X:
            return 1.0
        weight = weight_sectors(range(9), 9, 64, 16, item, block)
        return sectors_of_tile(*((64, 64) if half else (128, 64)), 9 * 64, weight=weight)
    if call == VALUE:
        weight = weight_sectors((0, 2, 8, 10), 16, 64, 4, item, block)
        return sectors_of_tile(128, 32, 4 * 128, weight=weight, y=2)
    if call == OF_X:
        return sectors_of_tile(128, 64, 16 * 64, x=2)
    # The small image, the large one and the partial sums, which are half as many bytes as each; float32 is NHWC by now.
    return (1 + 2 + 0.5) / 2.5 if half else 1.0


def _case(layer, call, dtype, layout):
    x_shape, w_shape, kwargs, transposed = LAYERS[layer]
    f = F.conv_transpose2d if transposed else F.conv2d
    y_shape = f(torch.empty(x_shape, device="meta"), torch.empty(w_shape, device="meta"), **kwargs).shape
    small, large = (x_shape, y_shape) if transposed else (y_shape, x_shape)
    taps, stride = w_shape[2] * w_shape[3], kwargs.get("stride", 1)
    pixels, outer, inner = small[0] * small[2] * small[3], small[1], large[1]  # each pixel of `small` meets every tap
    partial = 0
    if call == OF_WEIGHT:
        tiles = cdiv(outer, 64) * cdiv(inner, 64) * taps
        partial = splits_of(pixels, 32 if dtype.itemsize == 2 else 16, tiles) * outer * inner * taps * 4
        asked = pixels * taps * (outer * cdiv(inner, 64) + inner * cdiv(outer, 64)) * dtype.itemsize + partial
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
        requested=1.01 * asked / floor, unique=1.05 + partial / floor,
        sectors=1.01 * (1.0 if last else _nchw_sectors(layer, call, dtype)),
        registers=168, occupancy=0.12, dot=half,
        wide=last and call == OF_WEIGHT,  # 512 threads that share no bank have two numbers of a float32 tile each
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
