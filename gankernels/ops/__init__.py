"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference.

They take torch tensors, and NumPy or CuPy arrays through DLPack: the kind of ``x`` is the kind of the result
(``_arrays.accept``).
"""

from gankernels.ops import _arrays
from gankernels.ops.adain import adain, adain_from
from gankernels.ops.add_noise import add_noise
from gankernels.ops.batch_norm_act import batch_norm_act
from gankernels.ops.bias_act import bias_act
from gankernels.ops.conditional_batch_norm import conditional_batch_norm
from gankernels.ops.conv2d import conv2d, conv_transpose2d
from gankernels.ops.conv2d_resample import conv2d_resample
from gankernels.ops.fade_in import fade_in
from gankernels.ops.filtered_lrelu import filtered_lrelu
from gankernels.ops.gradient_reversal import gradient_reversal
from gankernels.ops.grid_sample2d import affine_grid_sample2d, grid_sample2d
from gankernels.ops.instance_norm_act import instance_norm_act
from gankernels.ops.maxout import maxout
from gankernels.ops.minibatch_stddev import minibatch_stddev
from gankernels.ops.modulate_act import modulate_act
from gankernels.ops.modulated_conv2d import modulated_conv2d, modulated_conv2d_act
from gankernels.ops.per_sample import norm_per_sample, sum_squares_per_sample
from gankernels.ops.pixel_norm import pixel_norm
from gankernels.ops.pixel_shuffle_act import pixel_shuffle_act
from gankernels.ops.self_attention2d import self_attention2d
from gankernels.ops.spade_norm import spade_norm
from gankernels.ops.spectral_norm import spectral_norm
from gankernels.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "adain",
    "adain_from",
    "add_noise",
    "affine_grid_sample2d",
    "batch_norm_act",
    "bias_act",
    "conditional_batch_norm",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "downsample2d",
    "fade_in",
    "filter2d",
    "filtered_lrelu",
    "gradient_reversal",
    "grid_sample2d",
    "instance_norm_act",
    "maxout",
    "minibatch_stddev",
    "modulate_act",
    "modulated_conv2d",
    "modulated_conv2d_act",
    "norm_per_sample",
    "pixel_norm",
    "pixel_shuffle_act",
    "self_attention2d",
    "setup_filter",
    "spade_norm",
    "spectral_norm",
    "sum_squares_per_sample",
    "upfirdn2d",
    "upsample2d",
]

_RUNNING = {"written": ("running_mean", "running_var"), "when": "training"}
_WRITES = dict.fromkeys(("batch_norm_act", "conditional_batch_norm", "spade_norm"), _RUNNING)

NO_ARRAYS = ("setup_filter", "spectral_norm")
"""The first takes arrays for what they hold, like nested lists; the second takes lists of tensors."""

for _name in __all__:
    if _name not in NO_ARRAYS:
        globals()[_name] = _arrays.accept(globals()[_name], **_WRITES.get(_name, {}))
