"""Objectives of the adversarial game: what the discriminator and what the generator minimise.

Logits are high for real; an autoencoding discriminator returns its reconstruction error, low for real. Every loss is a
scalar to be minimised, in float32 or better whatever the logits are.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from gankernels.losses import energy, penalties
from gankernels.losses._widen import widen


@dataclass(frozen=True)
class Objective:
    """One form of the game; get one by `objective(name)`.

    Attributes:
        name: as given to `objective`.
        discriminator: ``(real_logits, fake_logits) -> loss``; logits of any shape, the loss a scalar.
        generator: ``(fake_logits) -> loss``.
        weight_clip: the discriminator's weights are to be clipped to this after each of its steps, or None.
        penalty: ``(discriminator, real, fake, c, generator, weight=10) -> loss``, added to the discriminator's; None
            for none. Its random numbers come from the `torch.Generator`.
        labels: "" for none needed; "input": both networks take the class; "head": the discriminator classifies too
            (ACGAN), or guesses the latent code (InfoGAN), by a loss of `gankernels.losses.classes`.
        error: the discriminator is an autoencoder and its output a reconstruction error.
        logistic: the discriminator's loss is the logistic one, so that labels can be smoothed and `roth` applies.

    Differentiable to any order.
    """

    name: str
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    weight_clip: float | None = None
    penalty: Callable[..., Tensor] | None = None
    labels: str = ""
    error: bool = False
    logistic: bool = False


def objective(name: str) -> Objective:
    """The objective called `name`.

    - ``gan`` (Goodfellow et al. 2014, arXiv 1406.2661): D minimises -log D(x) - log(1 - D(G(z))), G its negative's
      second term (saturating).
    - ``gan-ns``: the same D; G minimises -log D(G(z)) (non-saturating).
    - ``lsgan`` (Mao et al. 2017, arXiv 1611.04076): squared distance to 1 for real, 0 for fake; no factor 1/2.
    - ``wgan`` (Arjovsky et al. 2017, arXiv 1701.07875): difference of the means; weights clipped to +-0.01.
    - ``wgan-gp`` (Gulrajani et al. 2017, arXiv 1704.00028): wgan with `wgan_gp`, weight 10, in place of clipping.
    - ``dragan`` (Kodali et al. 2017, arXiv 1705.07215): gan-ns with `dragan`, weight 10.
    - ``cgan`` (Mirza and Osindero 2014, arXiv 1411.1784): gan-ns of networks that take labels.
    - ``infogan`` (Chen et al. 2016, arXiv 1606.03657), ``acgan`` (Odena et al. 2016, arXiv 1610.09585): gan-ns; both
      players add a term of `gankernels.losses.classes`.
    - ``ebgan`` (Zhao et al. 2016, arXiv 1609.03126): reconstruction errors, margin 10; G may add `pulling_away`.
    - ``began`` (Berthelot et al. 2017, arXiv 1703.10717): reconstruction errors; D's loss here has k = 1, see `Began`
      for the controlled one.
    - ``hinge`` (Lim and Ye 2017, arXiv 1705.02894): D minimises max(0, 1 - D(x)) + max(0, 1 + D(G(z))).

    Raises: ValueError for an unknown name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective: unknown name {name!r}, expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    real, fake = widen(real), widen(fake)
    return softplus(-real).mean() + softplus(fake).mean()


def _non_saturating(fake: Tensor) -> Tensor:
    return softplus(-widen(fake)).mean()


def _critic(real: Tensor, fake: Tensor) -> Tensor:
    return widen(fake).mean() - widen(real).mean()


def _raise(fake: Tensor) -> Tensor:
    return -widen(fake).mean()


def _wgan_gp(discriminator, real, fake, c, generator, weight=10.0) -> Tensor:
    return penalties.wgan_gp(discriminator, real, fake, weight, c=c, generator=generator)


def _dragan(discriminator, real, fake, c, generator, weight=10.0) -> Tensor:
    return penalties.dragan(discriminator, real, weight, c=c, generator=generator)


OBJECTIVES = {
    o.name: o
    for o in (
        Objective("gan", _logistic, lambda fake: -softplus(widen(fake)).mean(), logistic=True),
        Objective("gan-ns", _logistic, _non_saturating, logistic=True),
        Objective(
            "lsgan",
            lambda real, fake: (widen(real) - 1).square().mean() + widen(fake).square().mean(),
            lambda fake: (widen(fake) - 1).square().mean(),
        ),
        Objective("wgan", _critic, _raise, weight_clip=0.01),
        Objective("wgan-gp", _critic, _raise, penalty=_wgan_gp),
        Objective("dragan", _logistic, _non_saturating, penalty=_dragan, logistic=True),
        Objective("cgan", _logistic, _non_saturating, labels="input", logistic=True),
        Objective("infogan", _logistic, _non_saturating, labels="head", logistic=True),
        Objective("acgan", _logistic, _non_saturating, labels="head", logistic=True),
        Objective("ebgan", energy.ebgan_discriminator, energy.mean_error, error=True),
        Objective("began", energy.began_discriminator, energy.mean_error, error=True),
        Objective(
            "hinge",
            lambda real, fake: (1 - widen(real)).relu().mean() + (1 + widen(fake)).relu().mean(),
            _raise,
        ),
    )
}
