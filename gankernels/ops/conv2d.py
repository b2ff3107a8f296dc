"""conv2d and conv_transpose2d: PyTorch's, with every derivative a convolution of its own that runs only when asked for.

Both are derivatives of one trilinear form in the weight and two images, `small` (the convolution's result) and `large`
(its input); so are their gradients, of every order. The backends take `size`, the result's rows and columns.

On CUDA tensors `cuda` runs cuDNN under these derivatives, for values and both gradients: its implicit products are
tuned for each GPU, and it is what automatic choice takes; `triton` is ours, for any stride without a copy of x. Both
take float32 as IEEE unless PyTorch is told to use TF32 for convolutions (as it is by default) and for products of
matrices (as it is not): torch.backends.fp32_precision = "tf32", or torch.set_float32_matmul_precision("high"). cuDNN's
weight gradient obeys the first switch alone, so where the second forbids TF32 it is cuBLAS', a product for each tap.
`cuda` has been run on CPU tensors alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, conv2d_op

Pair = int | Sequence[int]

_plain_conv2d = _backend.plain_call("conv2d")
_plain_conv_transpose2d = _backend.plain_call("conv_transpose2d")


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlate each image with a bank of filters: ``torch.nn.functional.conv2d``.

    Args:
        x: [N, I, H, W]; float16, bfloat16, float32 or float64; N may be 0.
        weight: [O, I / groups, kh, kw], dtype and device of x.
        bias: [O] or None.
        stride: step between the samples kept; an int or [rows, columns], as are padding and dilation.
        padding: zeros added at every side; "valid" is 0, "same" keeps H and W (stride 1).
        dilation: distance between taps.
        groups: channels are cut into so many independent convolutions.

    Returns: [N, O, (H + 2 padding - dilation (kh - 1) - 1) // stride + 1, ...]; channels_last if x or weight is, else
        contiguous. Differentiable in x, weight and bias, to any order; a gradient that is not asked for is not
        computed. Sums run in float32 or better; float32 is IEEE, on a GPU TF32 where PyTorch's switches for
        convolutions and for matrices both allow it. Under autocast all three are cast to its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for an empty result.
    """
    if _backend.plain_calls():
        y = _plain_conv2d(x, weight, bias, stride, padding, dilation, groups)
        if y is not NotImplemented:
            return y
    op = "conv2d"
    x, weight, bias = _operands(op, x, weight, bias)
    stride, dilation = _pair(op, "stride", stride, 1), _pair(op, "dilation", dilation, 1)
    groups = _groups(op, groups, x, weight)
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"{op}: bias has shape {list(bias.shape)}, expected [{weight.shape[0]}] (weight.shape[0])")
    if isinstance(padding, str):
        x, padding = _named_padding(op, padding, x, weight, stride, dilation)
    padding = _pair(op, "padding", padding, 0)
    size = [
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    _check_size(op, size, x, weight)
    return _backend.pick(op, x)(x, weight, bias, stride, padding, dilation, groups, size)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Add up a filter for every input sample, `stride` apart: ``torch.nn.functional.conv_transpose2d``.

    Strides run as `stride` x `stride` convolutions of the samples themselves: no inserted zero is multiplied.

    Args:
        x: [N, I, H, W]; float16, bfloat16, float32 or float64; N may be 0.
        weight: [I, O / groups, kh, kw], dtype and device of x.
        bias: [O] or None.
        stride: distance of neighbouring samples' filters in the result; an int or [rows, columns], as are the next.
        padding: rows and columns cut off at every side.
        output_padding: rows and columns more at the end; below the larger of stride and dilation.
        groups: channels are cut into so many independent convolutions.
        dilation: distance between taps.

    Returns: [N, O, (H - 1) stride - 2 padding + dilation (kh - 1) + 1 + output_padding, ...]; channels_last if x or
        weight is, else contiguous. Differentiable in x, weight and bias, to any order; a gradient that is not asked
        for is not computed. Sums run in float32 or better; float32 is IEEE, on a GPU TF32 where PyTorch's switches for
        convolutions and for matrices both allow it. Under autocast all three are cast to its dtype.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, and for an empty result.
    """
    if _backend.plain_calls():
        y = _plain_conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
        if y is not NotImplemented:
            return y
    op = "conv_transpose2d"
    x, weight, bias = _operands(op, x, weight, bias)
    stride, dilation = _pair(op, "stride", stride, 1), _pair(op, "dilation", dilation, 1)
    padding, extra = _pair(op, "padding", padding, 0), _pair(op, "output_padding", output_padding, 0)
    groups = _groups(op, groups, x, weight)
    channels = weight.shape[1] * groups
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"{op}: bias has shape {list(bias.shape)}, expected [{channels}] (weight.shape[1] * groups)")
    for d in (0, 1):
        if extra[d] >= max(stride[d], dilation[d]):
            raise ValueError(
                f"{op}: output_padding is {extra}, expected less than the larger of stride {stride} and dilation "
                f"{dilation}"
            )
    size = [
        (x.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1 + extra[d]
        for d in (0, 1)
    ]
    _check_size(op, size, x, weight)
    return _backend.pick(op, x)(x, weight, bias, stride, padding, dilation, groups, size)


def _operands(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The three tensors, checked, in autocast's dtype where it is on."""
    _check.floating(op, "x", x)
    dtype = _check.autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = (
            t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
            for t in (x, weight, bias)
        )
    _check.like(op, "weight", weight, x)
    _check.rank(op, "x", x, 4, "[N, C, H, W]")
    shape = "[I, O / groups, kh, kw]" if op == "conv_transpose2d" else "[O, I / groups, kh, kw]"
    _check.rank(op, "weight", weight, 4, shape)
    for name, t, sizes in (("x", x, x.shape[1:]), ("weight", weight, weight.shape)):
        if 0 in sizes:
            raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected no empty dimension but the batch")
    if bias is not None:
        _check.like(op, "bias", bias, x)
        _check.rank(op, "bias", bias, 1, "[O]")
    return x, weight, bias


def _pair(op: str, name: str, value: Pair, least: int) -> list[int]:
    """[rows, columns] of an int or a sequence of one or two, each at least `least`."""
    if type(value) is int and value >= least:  # nearly every call
        return [value, value]
    pair = list(value) if isinstance(value, (list, tuple, torch.Size)) else [value]
    if len(pair) == 1:
        pair = pair * 2
    whole = all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not whole or any(v < least for v in pair):
        raise ValueError(f"{op}: {name} is {value!r}, expected an integer of {least} or more, or two (rows, columns)")
    return pair


def _groups(op: str, groups: int, x: Tensor, weight: Tensor) -> int:
    """`groups`, which must divide the weight's first dimension and fit x to the channels that it takes."""
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ValueError(f"{op}: groups is {groups!r}, expected an integer of 1 or more")
    if weight.shape[0] % groups:
        raise ValueError(f"{op}: groups is {groups}, expected a divisor of weight.shape[0], which is {weight.shape[0]}")
    channels = weight.shape[1] * groups if op == "conv2d" else weight.shape[0]
    if x.shape[1] != channels:
        raise ValueError(
            f"{op}: x has {x.shape[1]} channels, expected {channels} as weight {list(weight.shape)} in {groups} groups"
        )
    return groups


def _named_padding(op, padding, x, weight, stride, dilation):
    """x and the padding that "valid" or "same" means; an odd total puts its last row or column after x."""
    if padding == "valid":
        return x, 0
    if padding != "same":
        raise ValueError(f"{op}: padding is {padding!r}, expected integers, 'valid' or 'same'")
    if max(stride) > 1:
        raise ValueError(f"{op}: padding is 'same', which needs stride 1, got {stride}")
    total = [dilation[d] * (weight.shape[2 + d] - 1) for d in (0, 1)]
    if total[0] % 2 or total[1] % 2:
        x = F.pad(x, [0, total[1] % 2, 0, total[0] % 2])
    return x, [t // 2 for t in total]


def _check_size(op: str, size: list[int], x: Tensor, weight: Tensor) -> None:
    if size[0] < 1 or size[1] < 1:
        raise ValueError(
            f"{op}: the result would have {size[0]} rows and {size[1]} columns, expected 1 or more; "
            f"x is {list(x.shape)}, weight is {list(weight.shape)}: check padding, dilation and stride"
        )
    _check.pixels(op, size, x)


def reference(x, weight, bias, stride, padding, dilation, groups, size):
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def reference_transpose(x, weight, bias, stride, padding, dilation, groups, size):
    extra = [
        size[d] - ((x.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1)
        for d in (0, 1)
    ]
    return F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation)


for _name, _reference, _triton in (
    ("conv2d", reference, conv2d_op.conv2d),
    ("conv_transpose2d", reference_transpose, conv2d_op.conv_transpose2d),
):
    _native = _backend.native(_name)
    _backend.register(_name, reference=_reference, cpu=_native, cuda=_native, triton=_triton, cuda_is_torch=True)
