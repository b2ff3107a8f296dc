"""``torch_utils.ops.conv2d_resample``."""

from gankernels import ops

from .conv2d_gradfix import gated  # of the same package, whatever that is installed as


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """`gankernels.ops.conv2d_resample`."""
    options = {"groups": groups, "flip_weight": flip_weight, "flip_filter": flip_filter}
    return ops.conv2d_resample(x, gated(w), f, up=up, down=down, padding=padding, **options)
