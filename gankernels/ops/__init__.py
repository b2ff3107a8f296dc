"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference."""

from gankernels.ops.batch_norm_act import batch_norm_act
from gankernels.ops.bias_act import bias_act
from gankernels.ops.composites import add_noise, fade_in, gradient_reversal, maxout, pixel_shuffle_act
from gankernels.ops.conv2d import conv2d, conv_transpose2d
from gankernels.ops.minibatch_stddev import minibatch_stddev
from gankernels.ops.pixel_norm import pixel_norm
from gankernels.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "add_noise",
    "batch_norm_act",
    "bias_act",
    "conv2d",
    "conv_transpose2d",
    "downsample2d",
    "fade_in",
    "filter2d",
    "gradient_reversal",
    "maxout",
    "minibatch_stddev",
    "pixel_norm",
    "pixel_shuffle_act",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
