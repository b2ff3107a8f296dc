"""Resampling with a filter."""

from gankernels import ops


def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    """`gankernels.ops.upfirdn2d`, a true convolution. `pad` is (before, after), of both axes, or (x0, x1, y0, y1)."""
    padding = [*pad, *pad] if len(pad) == 2 else pad
    return ops.upfirdn2d(input, kernel, up=up, down=down, padding=padding)
