"""The operators: functions of tensors in [N, C, H, W], differentiable twice on every backend."""

from gankernels.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
