"""Training runs: configuration, loop, checkpoints, pictures; see `train`."""

from gankernels.training.config import TrainConfig
from gankernels.training.networks import load_generator
from gankernels.training.presets import PRESETS, RECIPES
from gankernels.training.progress import PlainProgress, make_progress
from gankernels.training.run import Result, train

__all__ = ["PRESETS", "RECIPES", "PlainProgress", "Result", "TrainConfig", "load_generator", "make_progress", "train"]
