"""upfirdn2d at the shapes of StyleGAN2's blur, upsampling and downsampling (4 taps) and of augmentation (12 taps).

The backward pass is upfirdn2d with the factors exchanged: of up 2 it has the kernels of down 2. Filters are constants of
the models, so the table holds the gradient in x.
"""

import torch

from gankernels import ops

from .case import Case

SOURCES = ("csrc/upfirdn2d.h", "csrc/cuda/upfirdn2d*", "csrc/cuda/divider.h", "csrc/cuda/launch.h",
           "csrc/cuda/pack.cuh", "gankernels/triton/upfirdn2d.py")  # fmt: skip

CALLS = {  # taps of the filter, arguments, size of x
    "blur": ((4, 4), dict(padding=[2, 1, 2, 1]), 256),
    "blur separable": ((4,), dict(padding=[2, 1, 2, 1]), 256),
    "up 2": ((4, 4), dict(up=2, padding=[2, 1, 2, 1], gain=4), 128),
    "down 2": ((4, 4), dict(down=2, padding=[1, 1, 1, 1]), 256),
    "up 2, 12 taps": ((12,), dict(up=2, padding=[6, 5, 6, 5], gain=4), 128),
    "down 2, 12 taps": ((12,), dict(down=2, padding=[5, 5, 5, 5]), 256),
}
