"""Objectives of the adversarial game: what the discriminator and what the generator minimise.

Logits are high for real. Every loss is a scalar to be minimised, in float32 or better whatever the logits are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Objective:
    """One form of the game; get one by `objective(name)`.

    Attributes:
        name: as given to `objective`.
        discriminator: ``(real_logits, fake_logits) -> loss``; logits of any shape, the loss a scalar.
        generator: ``(fake_logits) -> loss``.
        weight_clip: the discriminator's weights are to be clipped to this after each of its steps, or None.

    Differentiable to any order.
    """

    name: str
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    weight_clip: float | None = None


def objective(name: str) -> Objective:
    """The objective called `name`.

    - ``gan`` (Goodfellow et al. 2014, arXiv 1406.2661): D minimises -log D(x) - log(1 - D(G(z))), G its negative's
      second term (saturating).
    - ``gan-ns``: the same D; G minimises -log D(G(z)) (non-saturating).
    - ``lsgan`` (Mao et al. 2017, arXiv 1611.04076): squared distance to 1 for real, 0 for fake; no factor 1/2.
    - ``wgan`` (Arjovsky et al. 2017, arXiv 1701.07875): difference of the means; weights clipped to +-0.01.
    - ``hinge`` (Lim and Ye 2017, arXiv 1705.02894): D minimises max(0, 1 - D(x)) + max(0, 1 + D(G(z))).

    Raises: ValueError for an unknown name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective: unknown name {name!r}, expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    real, fake = _widen(real), _widen(fake)
    return softplus(-real).mean() + softplus(fake).mean()


def _widen(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


OBJECTIVES = {
    o.name: o
    for o in (
        Objective("gan", _logistic, lambda fake: -softplus(_widen(fake)).mean()),
        Objective("gan-ns", _logistic, lambda fake: softplus(-_widen(fake)).mean()),
        Objective(
            "lsgan",
            lambda real, fake: (_widen(real) - 1).square().mean() + _widen(fake).square().mean(),
            lambda fake: (_widen(fake) - 1).square().mean(),
        ),
        Objective(
            "wgan",
            lambda real, fake: _widen(fake).mean() - _widen(real).mean(),
            lambda fake: -_widen(fake).mean(),
            weight_clip=0.01,
        ),
        Objective(
            "hinge",
            lambda real, fake: (1 - _widen(real)).relu().mean() + (1 + _widen(fake)).relu().mean(),
            lambda fake: -_widen(fake).mean(),
        ),
    )
}
