"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference."""

from gankernels.ops.bias_act import bias_act
from gankernels.ops.conv2d import conv2d, conv_transpose2d

__all__ = ["bias_act", "conv2d", "conv_transpose2d"]
