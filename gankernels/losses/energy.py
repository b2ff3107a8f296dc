"""Losses of discriminators that are autoencoders: their output is a reconstruction error, low for real."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.losses._widen import widen


def mean_error(fake: Tensor) -> Tensor:
    """What the generator of EBGAN and BEGAN minimises: ``mean error(G(z))``."""
    return widen(fake).mean()


def ebgan_discriminator(real: Tensor, fake: Tensor, margin: float = 10.0) -> Tensor:
    """``mean error(x) + mean max(0, margin - error(G(z)))``; errors [N].

    Zhao et al. 2016, "Energy-based Generative Adversarial Network", arXiv 1609.03126.
    """
    return widen(real).mean() + (margin - widen(fake)).relu().mean()


def pulling_away(codes: Tensor) -> Tensor:
    """EBGAN's pull-away term of a generated batch's codes [N, D]: mean squared cosine over pairs of other samples.

    Raises: ValueError for codes of another rank or fewer than two. arXiv 1609.03126, section 2.5.
    """
    if codes.ndim != 2 or codes.shape[0] < 2:
        raise ValueError(f"pulling_away: codes has shape {list(codes.shape)}, expected [N, D] with N at least 2")
    n = codes.shape[0]
    unit = widen(codes)
    unit = unit / unit.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.t()).square()
    return (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))


def began_discriminator(real: Tensor, fake: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """``mean error(x) - k * mean error(G(z))``; k comes from `Began`."""
    return widen(real).mean() - k * widen(fake).mean()


@dataclass
class Began:
    """BEGAN's controlled balance; keep `k` with the training state.

    Nothing here waits for the device: after the first update k is a scalar tensor where the errors are, never
    changed in place, so that a loss of an earlier k can still be differentiated.

    Attributes:
        gamma: the ratio of errors, generated to real, that is kept: low for less diversity.
        rate: lambda, by which k follows.
        k: the generated images' share in the discriminator's loss, 0 to 1.

    Berthelot et al. 2017, "BEGAN: Boundary Equilibrium Generative Adversarial Networks", arXiv 1703.10717.
    """

    gamma: float = 0.5
    rate: float = 1e-3
    k: float | Tensor = 0.0

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """``mean error(x) - k * mean error(G(z))``."""
        return began_discriminator(real, fake, self.k)

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> Tensor:
        """``k <- clamp(k + rate * (gamma * error(x) - error(G(z))), 0, 1)``; returns the convergence measure, a scalar

        ``error(x) + |gamma * error(x) - error(G(z))|``.
        """
        error = widen(real).mean()
        balance = self.gamma * error - widen(fake).mean()
        self.k = (self.k + self.rate * balance).clamp(0.0, 1.0)
        return error + balance.abs()
