"""``torch_utils.ops.upfirdn2d``."""

import torch

from gankernels import ops
from gankernels.compat import _impl

_init = _impl.warm_up


def setup_filter(f, device="cpu", normalize=True, flip_filter=False, gain=1, separable=None):
    """`gankernels.ops.setup_filter`, the result on `device`."""
    return ops.setup_filter(f, normalize, flip_filter, gain, separable).to(torch.device(device))


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    """`gankernels.ops.upfirdn2d`; `impl` "ref" runs plain PyTorch, "cuda" the fastest kernel there is for x."""
    with _impl.backend(impl):
        return ops.upfirdn2d(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain)


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    """`gankernels.ops.filter2d`; `impl` as in `upfirdn2d`."""
    with _impl.backend(impl):
        return ops.filter2d(x, f, padding=padding, flip_filter=flip_filter, gain=gain)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    """`gankernels.ops.upsample2d`; `impl` as in `upfirdn2d`."""
    with _impl.backend(impl):
        return ops.upsample2d(x, f, up=up, padding=padding, flip_filter=flip_filter, gain=gain)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    """`gankernels.ops.downsample2d`; `impl` as in `upfirdn2d`."""
    with _impl.backend(impl):
        return ops.downsample2d(x, f, down=down, padding=padding, flip_filter=flip_filter, gain=gain)
