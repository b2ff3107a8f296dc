"""``torch_utils.ops.filtered_lrelu``."""

import math

from gankernels import ops
from gankernels.compat import _impl

_init = _impl.warm_up
_ROOT2 = math.sqrt(2)


def filtered_lrelu(
    x,
    fu=None,
    fd=None,
    b=None,
    up=1,
    down=1,
    padding=0,
    gain=_ROOT2,
    slope=0.2,
    clamp=None,
    flip_filter=False,
    impl="cuda",
):
    """`gankernels.ops.filtered_lrelu`; `impl` "ref" runs plain PyTorch, "cuda" the fastest kernel there is for x."""
    options = {"padding": padding, "gain": gain, "slope": slope, "clamp": clamp, "flip_filter": flip_filter}
    with _impl.backend(impl):
        return ops.filtered_lrelu(x, fu, fd, b, up=up, down=down, **options)
