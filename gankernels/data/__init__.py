"""Images to train on: two bundled sets, image folders and zip files; see `load`."""

from gankernels.data.dataset import ImageData, Sampler
from gankernels.data.images import MAX_PIXELS
from gankernels.data.source import BUNDLED, MAX_SKIPPED, Skipped, default_channels, load

__all__ = ["BUNDLED", "MAX_PIXELS", "MAX_SKIPPED", "ImageData", "Sampler", "Skipped", "default_channels", "load"]
