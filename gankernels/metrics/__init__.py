"""Distances between sets of images, on features whose weights lie on disk."""

from gankernels.metrics.features import efficientnet_lite0
from gankernels.metrics.kid import kid

__all__ = ["efficientnet_lite0", "kid"]
