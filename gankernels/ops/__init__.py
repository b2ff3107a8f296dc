"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference."""

from gankernels.ops.bias_act import bias_act
from gankernels.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["bias_act", "downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
