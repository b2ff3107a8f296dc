"""The operators. Each is the fastest kernel that runs on its tensors, differentiable, with a readable reference."""

from gankernels.ops.bias_act import bias_act

__all__ = ["bias_act"]
