"""Layers: thin modules over `gankernels.ops`, named and built as PyTorch's are."""

from gankernels.nn import _layer_rules  # noqa: F401  registers the layers' derivatives
from gankernels.nn._augment_draws import sample_keys
from gankernels.nn._linearize import (
    Linearization,
    linearize,
    pullback,
    pushforward,
    register_linearization,
)
from gankernels.nn.activation import BiasAct, FadeIn, GradientReversal, Maxout, PixelShuffleAct
from gankernels.nn.attention import SelfAttention
from gankernels.nn.augment import PRESETS, AugmentConfig, AugmentPipe
from gankernels.nn.conditional import SPADE, AdaIN, ConditionalBatchNorm2d
from gankernels.nn.conv import Conv2d, ConvTranspose2d
from gankernels.nn.linear import Linear
from gankernels.nn.norm import BatchNormAct2d, InstanceNormAct2d, MinibatchStdDev, PixelNorm
from gankernels.nn.resample import Blur, Downsample, FilteredLReLU, Upsample
from gankernels.nn.spectral import SpectralNorm
from gankernels.nn.style import EqualizedConv2d, EqualizedLinear, ModulatedConv2d, NoiseInjection, StyledConv
from gankernels.nn.whole import Dropout, Whole

__all__ = [
    "PRESETS",
    "SPADE",
    "AdaIN",
    "AugmentConfig",
    "AugmentPipe",
    "BatchNormAct2d",
    "BiasAct",
    "Blur",
    "ConditionalBatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Downsample",
    "Dropout",
    "EqualizedConv2d",
    "EqualizedLinear",
    "FadeIn",
    "FilteredLReLU",
    "GradientReversal",
    "InstanceNormAct2d",
    "Linear",
    "Linearization",
    "Maxout",
    "MinibatchStdDev",
    "ModulatedConv2d",
    "NoiseInjection",
    "PixelNorm",
    "PixelShuffleAct",
    "SelfAttention",
    "SpectralNorm",
    "StyledConv",
    "Upsample",
    "Whole",
    "linearize",
    "pullback",
    "pushforward",
    "register_linearization",
    "sample_keys",
]
