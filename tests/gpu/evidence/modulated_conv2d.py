"""modulated_conv2d in Triton: a 3x3 layer of a StyleGAN2 block and its upsampling form, values and gradients.

Unfused are PyTorch's passes on each side of one convolution with the common weight. A call asks for x once for each tap
and tile of channels and for the weight once for each tile of pixels, as the convolutions do, and for a line of styles
with each block of channels; a weight gradient in float32, whose styles pass no shared memory, for one with each number.
An upsampling layer's phases are a pixel larger than x: the last tiles of an image are partly empty. Its filter and its
epilogue are upfirdn2d and modulate_act.

Sectors in NCHW as in conv2d; in an upsampling layer a phase has 4, 2, 2 or 1 of a weight's 9 taps, and its pixels, two
apart in y, come in lines of 17.
"""

import torch
from triton import cdiv

from gankernels.triton.conv2d_weight_grad import splits_of

from .case import Case
from .conv2d import sectors_of_tile, weight_sectors

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


def _lines(width, place, item=2):
    """Sectors over the ideal where 32 lanes take neighbours in lines of `width`; `place` gives that of a number."""
    touched = [
        len({place(p // width, p % width) * item // 32 for p in range(at, at + 32)}) for at in range(0, width * 32, 32)
    ]
    return sum(touched) / len(touched) / item


def _nchw_sectors(name):
    """The limit of a call in float16, at the tile that it draws."""
    if name == "gradient of x":
        return sectors_of_tile(64, 64, 9 * C, weight=weight_sectors(range(9), 9, C, 16, 2, 32))
    if name != "up 2, before the filter":
        return 1.0
    phases = (0, 2, 6, 8), (1, 7), (3, 5), (4,)
    weight = sum(len(taps) * weight_sectors(taps, 9, C, 4, 2, 32) for taps in phases) / 9
    x = _lines(17, lambda row, column: row * 16 + min(column, 15))
    y = _lines(17, lambda row, column: row * 66 + column * 2)
    return sectors_of_tile(128 * 289 / 384, C, 9 / 4 * C, x, weight, y)  # 3 tiles for the 289 pixels of a phase


def _case(name, prepare, dtype, layout, rows, images, passes):
    """`images` read and written besides the weight; `passes` over them that PyTorch makes more."""
    last, half, item = layout == torch.channels_last, dtype.itemsize == 2, dtype.itemsize
    x, y = (N * r * r * C for r in rows)
    small = min(rows) ** 2 * N
    partial = 0
    if name == "gradient of weight":
        partial = splits_of(small, 32 if half else 16, cdiv(C, 64) ** 2 * 9) * C * C * 9 * 4
        asked = small * 9 * 2 * C * item + partial + small * 9 * C * 4 / (32 if half else 1)
    else:
        tiles = (4 if rows == UP else 1) * N * cdiv(289 if rows == UP else 1024, 64)
        weights = tiles * C * C * (9 / 4 if rows == UP else 9)
        asked = (small * 9 * C * 2 + weights + images * y) * item + tiles * 9 * C * 8
    floor = (x + y * (images - 1) + C * C * 9) * item if images > 1 else (x + y + C * C * 9) * item
    return Case(
        "triton", f"{name}, {str(dtype)[6:]} {'NHWC' if last else 'NCHW'}", prepare, floor,
        floor + passes * 2 * y * item, 1, requested=(1.02 if partial else 1.1 if half else 1.3) * asked / floor,
        unique=1.1 + partial / floor,
        sectors=1.01 * (1.0 if last else _nchw_sectors(name)), registers=255, occupancy=0.12, dot=half,
        wide=last and name == "gradient of weight",
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
