"""Convergence of GANs computed: small games, distances between distributions, mode collapse."""
