"""Distances between sets of images, on features whose weights lie on disk."""

from gankernels.metrics.features import Extractor, efficientnet_lite0, inception_extractor, lite0_extractor
from gankernels.metrics.kid import kid
from gankernels.metrics.path_length import path_length
from gankernels.metrics.perceptual import Perceptual, perceptual_lite0, perceptual_vgg16
from gankernels.metrics.scores import fid, inception_score, nearest, precision_recall

__all__ = [
    "Extractor",
    "Perceptual",
    "efficientnet_lite0",
    "fid",
    "inception_extractor",
    "inception_score",
    "kid",
    "lite0_extractor",
    "nearest",
    "path_length",
    "perceptual_lite0",
    "perceptual_vgg16",
    "precision_recall",
]
