"""Convergence of GANs computed: small games, distances between distributions, mode collapse."""

from gankernels.lab.run import PARTS, lab

__all__ = ["PARTS", "lab"]
