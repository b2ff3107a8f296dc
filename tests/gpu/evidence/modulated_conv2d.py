"""modulated_conv2d in Triton: a 3x3 layer of a StyleGAN2 block and its upsampling form, values and gradients.

Unfused are PyTorch's passes on each side of one convolution with the common weight. A call asks for x once for each tap
and tile of channels and for the weight once for each tile of pixels, as the convolutions do, and for a line of styles
with each block of channels. An upsampling layer's result is a pixel wider than its phases are tall: the last tiles of
an image are partly empty. Its filter and its epilogue are upfirdn2d and modulate_act.
"""

import torch
from triton import cdiv

from gankernels.triton.conv2d_weight_grad import splits_of

from .case import Case

SOURCES = (
    "gankernels/triton/conv2d*.py", "gankernels/triton/activations.py", "gankernels/ops/modulated_conv2d_op.py",
)  # fmt: skip
N, C = 2, 64
LRELU = ("lrelu", 0.2, 2**0.5, 256.0)
PLAIN, UP = (32, 32), (16, 33)  # rows of x and of the result


def _tensors(dtype, layout, rows):
    x, y = (torch.randn(N, C, r, r).to(dtype).contiguous(memory_format=layout) for r in rows)
    w = torch.randn(C, C, 3, 3).to(dtype).contiguous(memory_format=layout)
    return x, y, w, torch.rand(N, C) + 0.5, torch.rand(N, C) + 0.5


def _whole(dtype, layout, keep):
    def prepare():
        x, _, w, s, d = _tensors(dtype, layout, PLAIN)
        noise, bias = torch.randn(1, 1, 32, 32), torch.randn(C)
        op = torch.ops.gankernels.modulated_conv2d
        return lambda: op(x, w, s, d, noise, bias, [1, 1], [1, 1], [32, 32], *LRELU, keep)

    return prepare


def _of_x(dtype, layout):
    def prepare():
        x, g, w, s, _ = _tensors(dtype, layout, PLAIN)
        op = torch.ops.gankernels.scaled_conv2d
        return lambda: op(g, w, s, True, True, [1, 1], [1, 1], x.shape[2:])

    return prepare


def _of_weight(dtype, layout):
    def prepare():
        x, g, _, s, _ = _tensors(dtype, layout, PLAIN)
        op = torch.ops.gankernels.scaled_conv2d_weight_grad
        return lambda: op(g, x, s, True, [1, 1], [1, 1], [3, 3])

    return prepare


def _up(dtype, layout):
    def prepare():
        x, y, w, s, _ = _tensors(dtype, layout, UP)
        op = torch.ops.gankernels.scaled_conv2d
        return lambda: op(x, w, s, False, True, [2, 2], [0, 0], y.shape[2:])

    return prepare


def _case(name, prepare, dtype, layout, rows, images, passes):
    """`images` read and written besides the weight; `passes` over them that PyTorch makes more."""
    last, half, item = layout == torch.channels_last, dtype.itemsize == 2, dtype.itemsize
    x, y = (N * r * r * C for r in rows)
    small = min(rows) ** 2 * N
    partial = 0
    if name == "gradient of weight":
        tile = 64 if half else 32
        partial = splits_of(small, 32 if half else 16, cdiv(C, 64) ** 2 * 9) * C * C * 9 * 4
        asked = small * 9 * (C * cdiv(C, tile) + C) * item + partial + small * 9 * C * 4 / (32 if half else 16)
    else:
        tiles = (4 if rows == UP else 1) * N * cdiv(289 if rows == UP else 1024, 64)
        weights = tiles * C * C * (9 / 4 if rows == UP else 9)
        asked = (small * 9 * C * 2 + weights + images * y) * item + tiles * 9 * C * 8
    floor = (x + y * (images - 1) + C * C * 9) * item if images > 1 else (x + y + C * C * 9) * item
    return Case(
        "triton", f"{name}, {str(dtype)[6:]} {'NHWC' if last else 'NCHW'}", prepare, floor,
        floor + passes * 2 * y * item, 1, requested=1.1 * asked / floor, unique=1.1 + partial / floor,
        sectors=1.01 if last else 2.3, wavefronts=1.1 if half else 2.1, registers=255, occupancy=0.12, dot=half,
        wide=last,
    )  # fmt: skip


def cases():
    for dtype, layout in (
        (torch.bfloat16, torch.channels_last), (torch.float16, torch.contiguous_format),
        (torch.float32, torch.channels_last),
    ):  # fmt: skip
        rest = (dtype, layout)
        yield _case("layer", _whole(*rest, False), *rest, PLAIN, 2, 7)
        yield _case("layer in training", _whole(*rest, True), *rest, PLAIN, 3, 7)
        yield _case("gradient of x", _of_x(*rest), *rest, PLAIN, 2, 1)
        yield _case("gradient of weight", _of_weight(*rest), *rest, PLAIN, 2, 1)
        yield _case("up 2, before the filter", _up(*rest), *rest, UP, 2, 1)
