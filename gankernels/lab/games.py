"""Small games whose equilibrium is known: data, a generator with parameters theta, a discriminator with psi.

The discriminator is linear in psi: D(x) = <psi, features(x)>. Expectations are means over fixed points of equal weight,
so a game has no randomness; many copies [B, ...] of it, each with parameters of its own, are played in one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Game:
    """A game and its equilibrium.

    Attributes:
        name, title: for tables; the title says data, generator and discriminator.
        continuous: both distributions have densities (the table's column "absolutely continuous").
        points: [N, d] the data, of equal weights, float64.
        generate: theta [B, m] -> [B, N, d].
        features: [B, N, d] -> [B, N, k].
        theta, psi: the equilibrium.
        axes: names of the parameters.
    """

    name: str
    title: str
    continuous: bool
    points: Tensor
    generate: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    theta: tuple[float, ...]
    psi: tuple[float, ...]
    axes: tuple[str, ...]

    @property
    def equilibrium(self) -> Tensor:
        """[m + k] theta, then psi."""
        return torch.tensor([*self.theta, *self.psi], dtype=torch.float64)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(theta, psi) of states [..., m + k]."""
        return state[..., : len(self.theta)], state[..., len(self.theta) :]


def normal_points(n: int) -> Tensor:
    """[n] quantiles of N(0, 1) in the middles of n equal parts, scaled to variance 1; 0 for n = 1."""
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    points = torch.special.ndtri(middles)
    return points / points.square().mean().sqrt() if n > 1 else points


def grid_points(n: int, d: int) -> Tensor:
    """[n ** d, d] all combinations of `normal_points`."""
    return torch.cartesian_prod(*[normal_points(n)] * d).reshape(-1, d)


def _identity(x: Tensor) -> Tensor:
    return x


_NORMAL = normal_points(64)[:, None]
_HEIGHTS = (torch.arange(16, dtype=torch.float64) - 7.5)[:, None]
_HEIGHTS = _HEIGHTS / _HEIGHTS.square().mean().sqrt()

DIRAC = Game(
    "Dirac",
    "data: the point 0; G: the point theta; D(x) = psi x",
    False,
    torch.zeros(1, 1, dtype=torch.float64),
    lambda theta: theta[:, None, :],
    _identity,
    (0.0,),
    (0.0,),
    ("theta", "psi"),
)
SEGMENTS = Game(
    "segments",
    "data: a vertical segment (0, y) in the plane; G: (theta1 + theta2 y, y); D(x, y) = psi1 x + psi2 x y",
    False,
    torch.cat([torch.zeros_like(_HEIGHTS), _HEIGHTS], 1),
    lambda theta: torch.stack([theta[:, :1] + theta[:, 1:] * _HEIGHTS[:, 0], _HEIGHTS[:, 0].expand(len(theta), -1)], 2),
    lambda x: torch.stack([x[..., 0], x[..., 0] * x[..., 1]], -1),
    (0.0, 0.0),
    (0.0, 0.0),
    ("theta1", "theta2", "psi1", "psi2"),
)
MEAN = Game(
    "Gaussian mean",
    "data: N(0, 1); G: N(theta, 1); D(x) = psi x",
    True,
    _NORMAL,
    lambda theta: theta[:, None, :] + _NORMAL,
    _identity,
    (0.0,),
    (0.0,),
    ("theta", "psi"),
)
SCALE = Game(
    "Gaussian scale",
    "data: N(0, 1); G: N(0, theta^2); D(x) = psi x^2",
    True,
    _NORMAL,
    lambda theta: theta[:, None, :] * _NORMAL,
    torch.square,
    (1.0,),
    (0.0,),
    ("theta", "psi"),
)
BOWL = Game(
    "Gaussian mean, bowl",
    "data: N(0, 1); G: N(theta, 1); D(x) = psi1 x + psi2 (sqrt(1 + x^2) - 1)",
    True,
    _NORMAL,
    lambda theta: theta[:, None, :] + _NORMAL,
    lambda x: torch.cat([x, (1 + x.square()).sqrt() - 1], -1),
    (0.0,),
    (0.0, 0.0),
    ("theta", "psi1", "psi2"),
)

GAMES = (MEAN, SCALE, DIRAC, SEGMENTS)
"""The games that decide the table: two with densities, two without."""
