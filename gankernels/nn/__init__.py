"""Layers: thin modules over `gankernels.ops`, named and built as PyTorch's are."""

from gankernels.nn.activation import BiasAct, Maxout
from gankernels.nn.conv import Conv2d, ConvTranspose2d
from gankernels.nn.linear import Linear
from gankernels.nn.norm import BatchNormAct2d, MinibatchStdDev, PixelNorm

__all__ = ["BatchNormAct2d", "BiasAct", "Conv2d", "ConvTranspose2d", "Linear", "Maxout", "MinibatchStdDev", "PixelNorm"]
