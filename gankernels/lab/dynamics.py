"""What gradient descent of both players does to a game: vector field, Jacobian, trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.lab.games import Game
from gankernels.lab.methods import Method, Play

STARTS = 4
RADIUS = 0.5
STEP, STEPS = 0.1, 500
"""Trajectories of the table: how many, how far from the equilibrium they start, step size and number of steps."""
CONVERGED = 1e-2
"""A trajectory has converged when its distance from the equilibrium is at most this part of the first."""


def field(game: Game, method: Method, state: Tensor, *, record: bool = False) -> Tensor:
    """[B, n] both players' directions of descent at states [B, n]; differentiable in the state with `record`."""
    state = state if record else state.detach().requires_grad_()
    theta, psi = game.split(state)
    d_loss, g_loss = method.losses(Play(game, theta, psi))
    copies = len(state)  # the losses are means over the copies
    (to_theta,) = torch.autograd.grad(g_loss * copies, theta, create_graph=record, retain_graph=True)
    (to_psi,) = torch.autograd.grad(d_loss * copies, psi, create_graph=record)
    return -torch.cat([to_theta, to_psi], 1)


def jacobian(game: Game, method: Method, point: Tensor) -> Tensor:
    """[n, n] derivative of the field at a point [n], by autograd."""
    return torch.autograd.functional.jacobian(lambda s: field(game, method, s[None], record=True)[0], point.detach())


def eigenvalues(matrix: Tensor) -> Tensor:
    """[n] complex, ordered by imaginary, then real part."""
    values = torch.linalg.eigvals(matrix)
    return torch.stack(sorted(values, key=lambda v: (round(v.imag.item(), 6), v.real.item())))


def largest_step(values: Tensor) -> float:
    """The step below which simultaneous descent with these eigenvalues contracts: min 2 |Re| / |lambda|^2, or 0."""
    if (values.real >= -1e-9).any():
        return 0.0
    return (-2 * values.real / values.abs().square()).min().item()


def radius(game: Game, matrix: Tensor, step: float, *, alternating: bool) -> float:
    """Spectral radius of one update linearised: below 1 it contracts, at 1 it turns, above it runs away."""
    eye, m = torch.eye(len(matrix), dtype=matrix.dtype), len(game.theta)
    if not alternating:
        update = eye + step * matrix
    else:
        first, second = eye.clone(), eye.clone()
        first[m:] += step * matrix[m:]
        second[:m] += step * matrix[:m]
        update = second @ first
    return torch.linalg.eigvals(update).abs().max().item()


def trajectories(
    game: Game, method: Method, starts: Tensor, step: float = STEP, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Simultaneous and alternating descent, [steps + 1, B, n] each, from starts [B, n].

    Alternating: the discriminator moves first, and the generator sees it.
    """
    m, count = len(game.theta), len(starts)
    states = [torch.cat([starts, starts])]  # both kinds in one batch
    for _ in range(steps):
        before = states[-1]
        theta, psi = game.split(before + step * field(game, method, before))
        moved = torch.cat([theta, psi if method.clip is None else psi.clamp(-method.clip, method.clip)], 1)
        turn = torch.cat([before[count:, :m], moved[count:, m:]], 1)
        moved[count:, :m] = (turn + step * field(game, method, turn))[:, :m]
        states.append(moved)
    simultaneous, alternating = torch.stack(states).split(count, 1)
    return simultaneous, alternating


def starts(game: Game, count: int = STARTS, distance: float = RADIUS, around: Tensor | None = None) -> Tensor:
    """[count, n] points at a distance from the equilibrium, or from another point, in fixed directions."""
    centre = game.equilibrium if around is None else around
    directions = torch.randn(count, len(centre), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return centre + distance * directions / directions.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Evidence:
    """What was computed of a method on a game.

    Attributes:
        values: [n] eigenvalues by autograd; None where the losses are not smooth at the equilibrium.
        closed: the same by hand, or None.
        shrunk: the largest of the starts' (last distance / first distance), (simultaneous, alternating).
        converges: eigenvalues, where there are any, lie left of the imaginary axis and every trajectory converged.
    """

    method: Method
    game: Game
    values: Tensor | None
    closed: Tensor | None
    shrunk: tuple[float, float]

    @property
    def converges(self) -> bool:
        left = self.values is None or bool((self.values.real < -1e-6).all())
        return left and all(ratio <= CONVERGED for ratio in self.shrunk)


def ratio(game: Game, path: Tensor, around: Tensor | None = None) -> float:
    """The largest of the trajectories' last distance to first distance; inf where one is not finite."""
    distance = (path - (game.equilibrium if around is None else around)).norm(dim=2)
    last = (distance[-1] / distance[0]).max().item()
    return last if last == last else float("inf")


def examine(method: Method, game: Game, closed: Tensor | None = None) -> Evidence:
    """Eigenvalues at the equilibrium, and trajectories of both kinds around it."""
    values = eigenvalues(jacobian(game, method, game.equilibrium)) if method.smooth else None
    shrunk = [ratio(game, path) for path in trajectories(game, method, starts(game))]
    return Evidence(method, game, values, closed, (shrunk[0], shrunk[1]))
