"""Objectives and penalties; every loss is to be minimised, and logits are high for real."""

from gankernels.losses.gan import Objective, objective

__all__ = ["Objective", "objective"]
