"""Leaky ReLU with its bias and gain."""

import math

import torch

from gankernels import ops

_SCALE = math.sqrt(2)


def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=_SCALE):
    """``leaky_relu(input + bias, negative_slope) * scale``, bias [input.shape[1]]: `gankernels.ops.bias_act`."""
    return ops.bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


class FusedLeakyReLU(torch.nn.Module):
    """`fused_leaky_relu` with a parameter `bias` of [channel], 0 at first; None where `bias` is False."""

    def __init__(self, channel, bias=True, negative_slope=0.2, scale=_SCALE):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)
