"""The training methods of the lectures' table, each as the losses of a game's two players.

They are made of `gankernels.losses`, the functions that training uses; random points are replaced by fixed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gankernels import losses
from gankernels.lab.games import Game, grid_points, normal_points

GAMMA, SIGMA, LAMBDA, CLIP = 0.5, 1.0, 1.0, 1.0
"""Strengths in the table: R1 and R2, noise, norm penalties, WGAN's clipping. Roth's and ConOpt's are 1."""


@dataclass
class Play:
    """B copies of a game with parameters theta [B, m] and psi [B, k]."""

    game: Game
    theta: Tensor
    psi: Tensor

    def __post_init__(self) -> None:
        self.copies = len(self.theta)
        self.fake = self.game.generate(self.theta).flatten(0, 1)  # [B N, d]
        self.real = self.game.points.repeat(self.copies, 1)

    def judge(self, x: Tensor) -> Tensor:
        """[B n, d] points, n to each copy -> logits [B n] of each copy's own discriminator."""
        features = self.game.features(x.reshape(self.copies, -1, x.shape[1]))
        return torch.einsum("bnk,bk->bn", features, self.psi).flatten()


Losses = Callable[[Play], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: of the row.
        losses: (discriminator's, generator's), means over the copies.
        lecture: what the lecture says of convergence, (absolutely continuous, general).
        smooth: the losses are differentiable twice at the equilibrium, so that eigenvalues judge.
        clip: psi is clipped to +-this after each step.
    """

    name: str
    losses: Losses
    lecture: tuple[bool, bool]
    smooth: bool = True
    clip: float | None = None


def plain(play: Play, objective: str) -> tuple[Tensor, Tensor]:
    """An objective without any penalty."""
    game = losses.objective(objective)
    return game.discriminator(play.judge(play.real), play.judge(play.fake)), game.generator(play.judge(play.fake))


def _added(play: Play, objective: str, penalty: Callable[[Play], Tensor]) -> tuple[Tensor, Tensor]:
    d_loss, g_loss = plain(play, objective)
    return d_loss + penalty(play), g_loss


def norm_at_mixtures(play: Play, weight: float = LAMBDA, target: float = 1.0) -> Tensor:
    """WGAN-GP's penalty, the shares of the mixtures spread evenly over [0, 1]."""
    shares = (torch.arange(len(play.real), dtype=torch.float64) % len(play.game.points) + 0.5) * 0.6180339887498949 % 1
    return losses.wgan_gp(play.judge, play.real, play.fake.detach(), weight, target=target, mix=shares)


def norm_around_data(play: Play, weight: float = LAMBDA, target: float = 1.0) -> Tensor:
    """DRAGAN's penalty, with noise of half the data's deviation, its points in another order than the data's."""
    n, d = play.game.points.shape
    order = (torch.arange(n) * 7 + 3) % n  # -x gets minus the noise of x where n is 64
    noise = 0.5 * play.game.points.std(0, correction=0) * normal_points(n)[order, None].expand(n, d)
    return losses.dragan(play.judge, play.real, weight, target=target, noise=noise.repeat(play.copies, 1))


def _noisy(play: Play, sigma: float) -> tuple[Tensor, Tensor]:
    d = play.real.shape[1]
    noise = sigma * grid_points(16 if d == 1 else 6, d)
    game = losses.objective("gan")
    real, fake = ((x[:, None] + noise).flatten(0, 1) for x in (play.real, play.fake))
    return game.discriminator(play.judge(real), play.judge(fake)), game.generator(play.judge(fake))


def _consensus(play: Play, gamma: float) -> tuple[Tensor, Tensor]:
    copies = play.copies  # a mean over copies becomes their sum, so that each has its own gradient
    d_loss, g_loss = (loss * copies for loss in plain(play, "gan"))
    penalty = losses.consensus([(g_loss, [play.theta]), (d_loss, [play.psi])], gamma)
    return (d_loss + penalty) / copies, (g_loss + penalty) / copies


def norm_method(name: str, weight: float = LAMBDA, target: float = 1.0) -> Method:
    """WGAN-GP or DRAGAN with another weight or target."""
    objective, penalty, lecture = {
        "WGAN-GP": ("wgan", norm_at_mixtures, (False, False)),
        "DRAGAN": ("gan", norm_around_data, (True, False)),
    }[name]
    added = partial(penalty, weight=weight, target=target)
    return Method(name, partial(_added, objective=objective, penalty=added), lecture, smooth=False)


def r1_method(gamma: float = GAMMA) -> Method:
    """R1 of another strength."""
    penalty = lambda play: losses.r1_penalty(play.judge, play.real, gamma)  # noqa: E731
    return Method("R1", partial(_added, objective="gan", penalty=penalty), (True, True))


def _r2(play: Play) -> Tensor:
    return losses.r2_penalty(play.judge, play.fake, GAMMA)


def _roth(play: Play) -> Tensor:
    return losses.roth(play.judge, play.real, play.fake, 1.0)


METHODS = (
    Method("unregularised", partial(plain, objective="gan"), (True, False)),
    Method("WGAN", partial(plain, objective="wgan"), (False, False), clip=CLIP),
    norm_method("WGAN-GP"),
    norm_method("DRAGAN"),
    Method("instance noise", partial(_noisy, sigma=SIGMA), (True, True)),
    Method("ConOpt", partial(_consensus, gamma=1.0), (True, True)),
    Method("Roth", partial(_added, objective="gan", penalty=_roth), (True, True)),
    r1_method(),
    Method("R2", partial(_added, objective="gan", penalty=_r2), (True, True)),
)
"""The rows of the table, with what the lecture says of each."""


def closed_form(method: str, game: Game) -> Tensor | None:
    """[2] eigenvalues at the equilibrium of the Dirac and the Gaussian mean game by hand, complex; None for others.

    With a = minus the second derivative of the discriminator's own update the Jacobian is [[0, f'], [-f', -a]], its
    eigenvalues -a/2 +- sqrt(a^2/4 - f'^2); f' = f'(0) is 1/2 (WGAN 1), and f''(0) = -1/4 adds variance/2 to a.
    """
    if game.name not in ("Dirac", "Gaussian mean"):
        return None
    variance = 1.0 if game.continuous else 0.0
    slope = 1.0 if method == "WGAN" else 0.5
    a = {
        "unregularised": variance / 2,
        "WGAN": 0.0,
        "instance noise": (variance + SIGMA**2) / 2,
        "ConOpt": variance / 2,
        "Roth": variance / 2 + 1.0 / 2,
        "R1": variance / 2 + GAMMA,
        "R2": variance / 2 + GAMMA,
    }.get(method)
    if a is None:
        return None
    if method == "ConOpt":  # J - J^T J
        trace, determinant = -(2 * slope**2 + a + a**2), (slope**2 + slope**4)
        determinant += a * slope**2
        return _roots(trace, determinant)
    return _roots(-a, slope**2)


def _roots(trace: float, determinant: float) -> Tensor:
    root = torch.sqrt(torch.tensor(trace**2 / 4 - determinant, dtype=torch.complex128))
    return torch.stack([trace / 2 - root, trace / 2 + root])
