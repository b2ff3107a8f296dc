"""Distances between distributions on a few points: Jensen-Shannon, earth mover's with its plan and its dual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gankernels.errors import need


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """JSD in nats of two distributions [n] over the same points; log 2 where they share none."""
    middle = (p + q) / 2
    return sum((torch.special.xlogy(one, one / middle.clamp_min(1e-300)).sum() / 2).item() for one in (p, q))


@dataclass(frozen=True)
class Transport:
    """Optimal transport between distributions over points x [n] and y [m] of a line.

    Attributes:
        cost: of the plan, W1.
        plan: [n, m] mass moved from x[i] to y[j].
        points, potential: [k] the points of both, and the 1-Lipschitz function over them that proves the cost.
        dual: sum potential * (p - q), the Kantorovich-Rubinstein value; equal to the cost.
    """

    cost: float
    plan: Tensor
    points: Tensor
    potential: Tensor
    dual: float


def transport(x: Tensor, p: Tensor, y: Tensor, q: Tensor) -> Transport:
    """W1 of masses p [n] at x [n] and q [m] at y [m], the primal and the dual linear programs solved apart."""
    optimize = need("scipy.optimize", "lab")
    n, m = len(x), len(y)
    distance = (x[:, None] - y[None]).abs()
    sources = torch.eye(n, dtype=p.dtype).repeat_interleave(m, 1)
    sinks = torch.eye(m, dtype=p.dtype).repeat(1, n)
    primal = optimize.linprog(
        distance.flatten().numpy(), A_eq=torch.cat([sources, sinks]).numpy(), b_eq=torch.cat([p, q]).numpy()
    )
    points, where = torch.cat([x, y]).unique(return_inverse=True)
    surplus = torch.zeros_like(points).index_add_(0, where, torch.cat([p, -q]))
    steps = torch.diff(torch.eye(len(points), dtype=p.dtype), dim=0)  # f[i + 1] - f[i]: neighbours bound all pairs
    gaps = points.diff()
    dual = optimize.linprog(
        (-surplus).numpy(),
        A_ub=torch.cat([steps, -steps]).numpy(),
        b_ub=torch.cat([gaps, gaps]).numpy(),
        bounds=[(0, 0)] + [(None, None)] * (len(points) - 1),
    )
    for name, result in (("plan", primal), ("dual", dual)):
        if not result.success:
            raise RuntimeError(f"transport: the {name}'s linear program failed: {result.message}")
    plan = torch.from_numpy(primal.x).reshape(n, m)
    return Transport(float(primal.fun), plan, points, torch.from_numpy(dual.x), -float(dual.fun))


def worked_example(shift: float = 3.0) -> Transport:
    """Masses 1/4, 1/2, 1/4 at 0, 1, 2, and the same moved by `shift`: disjoint for 3, where W1 = 3."""
    x, p = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    return transport(x, p, x + shift, p)


def divergence_of_example(shift: float) -> float:
    """JSD of the same two."""
    points = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    masses = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    union, where = torch.cat([points, points + shift]).unique(return_inverse=True)
    p, q = (torch.zeros_like(union).index_add_(0, where[part], masses) for part in (slice(3), slice(3, 6)))
    return jensen_shannon(p, q)


def optimal_discriminator(p: Tensor, q: Tensor) -> tuple[Tensor, float]:
    """(D [n], value): the discriminator that gains most on p against q over n points, found by Newton's method.

    Value is ``sum p log D + q log (1 - D)``; theory says D = p / (p + q) and value = 2 JSD - log 4.
    """
    logits = torch.zeros_like(p, requires_grad=True)
    for _ in range(60):
        loss = _weighted_logistic(p, q, logits)
        (slope,) = torch.autograd.grad(loss, logits)
        d = logits.detach().sigmoid()
        logits = (logits.detach() - slope / ((p + q) * d * (1 - d))).requires_grad_()
    logits = logits.detach()
    return logits.sigmoid(), -_weighted_logistic(p, q, logits).item()


def _weighted_logistic(p: Tensor, q: Tensor, logits: Tensor) -> Tensor:
    """``gan``'s discriminator loss where point i is seen p[i] of the time as real, q[i] as generated."""
    return (p * softplus(-logits) + q * softplus(logits)).sum()


def two_normals(n: int = 161) -> tuple[Tensor, Tensor, Tensor]:
    """(points [n], p, q): N(-1, 1) and N(1, 0.7^2) on a grid over [-4, 4], summing to 1."""
    x = torch.linspace(-4, 4, n, dtype=torch.float64)
    densities = [torch.exp(-((x - mean) ** 2) / (2 * s**2)) for mean, s in ((-1.0, 1.0), (1.0, 0.7))]
    return x, *(one / one.sum() for one in densities)
