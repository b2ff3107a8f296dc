"""Fused GPU and CPU operators for GANs, and the models composed of them."""

from gankernels import compat, onnx, ops
from gankernels._backend import backend, why_not
from gankernels._version import __version__

__all__ = ["__version__", "backend", "compat", "onnx", "ops", "why_not"]
