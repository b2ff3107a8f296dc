"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference."""

from gankernels.ops.batch_norm_act import batch_norm_act
from gankernels.ops.bias_act import bias_act

__all__ = ["batch_norm_act", "bias_act"]
