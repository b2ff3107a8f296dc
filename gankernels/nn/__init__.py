"""Layers: thin modules over `gankernels.ops`, named and built as PyTorch's are."""

from gankernels.nn import _layer_rules  # noqa: F401  registers the layers' derivatives
from gankernels.nn._linearize import (
    Linearization,
    linearize,
    pullback,
    pushforward,
    register_linearization,
)
from gankernels.nn.activation import BiasAct, Maxout
from gankernels.nn.conditional import SPADE, AdaIN, ConditionalBatchNorm2d
from gankernels.nn.conv import Conv2d, ConvTranspose2d
from gankernels.nn.linear import Linear
from gankernels.nn.norm import BatchNormAct2d, InstanceNormAct2d, MinibatchStdDev, PixelNorm
from gankernels.nn.style import EqualizedConv2d, EqualizedLinear, ModulatedConv2d, NoiseInjection, StyledConv

__all__ = [
    "SPADE",
    "AdaIN",
    "BatchNormAct2d",
    "BiasAct",
    "ConditionalBatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "EqualizedConv2d",
    "EqualizedLinear",
    "InstanceNormAct2d",
    "Linear",
    "Linearization",
    "Maxout",
    "MinibatchStdDev",
    "ModulatedConv2d",
    "NoiseInjection",
    "PixelNorm",
    "StyledConv",
    "linearize",
    "pullback",
    "pushforward",
    "register_linearization",
]
