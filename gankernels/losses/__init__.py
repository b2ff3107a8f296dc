"""Objectives, penalties and regularisers; every loss is to be minimised, and logits are high for real."""

from gankernels.losses.classes import acgan, infogan_categorical, infogan_gaussian
from gankernels.losses.energy import Began, began_discriminator, ebgan_discriminator, mean_error, pulling_away
from gankernels.losses.gan import OBJECTIVES, Objective, objective
from gankernels.losses.path import moved, path_length, path_lengths
from gankernels.losses.penalties import dragan, r1_penalty, r2_penalty, wgan_gp
from gankernels.losses.regularisers import (
    annealed,
    clip_weights_,
    consensus,
    drift,
    instance_noise,
    orthogonal,
    orthogonal_,
    roth,
    smoothed_logistic,
)

__all__ = [
    "OBJECTIVES",
    "Began",
    "Objective",
    "acgan",
    "annealed",
    "began_discriminator",
    "clip_weights_",
    "consensus",
    "dragan",
    "drift",
    "ebgan_discriminator",
    "infogan_categorical",
    "infogan_gaussian",
    "instance_noise",
    "mean_error",
    "moved",
    "objective",
    "orthogonal",
    "orthogonal_",
    "path_length",
    "path_lengths",
    "pulling_away",
    "r1_penalty",
    "r2_penalty",
    "roth",
    "smoothed_logistic",
    "wgan_gp",
]
