"""Objectives and penalties; every loss is to be minimised, and logits are high for real."""

from gankernels.losses.gan import Objective, objective
from gankernels.losses.penalties import dragan, path_length, r1_penalty, r2_penalty, wgan_gp

__all__ = ["Objective", "dragan", "objective", "path_length", "r1_penalty", "r2_penalty", "wgan_gp"]
