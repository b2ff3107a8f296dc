"""FID, precision and recall, inception score: statistics of features and class probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

EDGE = 1000
"""Rows of distance matrices at a time."""


def fid(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians with the features' means and covariances, in float64.

    Args:
        real, fake: features [N, d] and [M, d]; below d + 1 of either the covariance is singular and the distance high.

    Raises:
        ValueError: features of different lengths, or fewer than two of either.

    Heusel et al. 2017, arXiv 1706.08500.
    """
    _check(real, fake)
    real, fake = real.double(), fake.double()
    difference = real.mean(0) - fake.mean(0)
    a, b = (torch.cov(one.T).reshape(one.shape[1], -1) for one in (real, fake))
    # The eigenvalues of a b are those of the symmetric sqrt(a) b sqrt(a), which are real and not negative.
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return (difference @ difference + a.trace() + b.trace() - 2 * cross).item()


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Parts of the generated images that lie among the real ones (precision), and of the real among the generated.

    An image lies among others when it is no farther from one of them than that one's k-th nearest neighbour.

    Args:
        real, fake: features [N, d] and [M, d], each more than k.

    Raises:
        ValueError: features of different lengths, or no more than k of either.

    Kynkäänniemi et al. 2019, arXiv 1904.06991.
    """
    _check(real, fake)
    if k < 1 or min(len(real), len(fake)) <= k:
        raise ValueError(f"k must be 1 or more and below the counts {len(real)} and {len(fake)}, got {k}")
    return _covered(real, fake, k), _covered(fake, real, k)


def _covered(ground: Tensor, points: Tensor, k: int) -> float:
    # The nearest of a set to one of its own is itself, at distance 0.
    radii = torch.cat([distances(part, ground).kthvalue(k + 1, 1).values for part in ground.split(EDGE)])
    inside = [(distances(part, ground) <= radii).any(1) for part in points.split(EDGE)]
    return torch.cat(inside).double().mean().item()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean [N, M] of [N, d] and [M, d], in float64: by way of products, whose rounding float32 would show."""
    return torch.cdist(a.double(), b.double())


def inception_score(probabilities: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over the splits of exp(mean KL(p(y | x) || p(y))), in float64.

    Args:
        probabilities: [N, classes], rows sum to 1, in the order of drawing; the splits are consecutive.

    Raises:
        ValueError: fewer rows than splits, or rows that are no probabilities.

    Salimans et al. 2016, arXiv 1606.03498.
    """
    if probabilities.ndim != 2 or not 1 <= splits <= len(probabilities):
        raise ValueError(f"probabilities must be [N >= {splits}, classes], got {list(probabilities.shape)}")
    p = probabilities.double()
    if (p < 0).any() or not torch.allclose(p.sum(1), torch.ones((), dtype=torch.float64), atol=1e-3):
        raise ValueError("probabilities must be 0 or more, and each row must sum to 1")
    scores = []
    for part in p.tensor_split(splits):
        marginal = part.mean(0)
        divergence = torch.xlogy(part, part).sum(1) - torch.xlogy(part, marginal).sum(1)
        scores.append(divergence.mean().exp())
    return torch.stack(scores).mean().item(), torch.stack(scores).std(unbiased=False).item()


def nearest(queries: Tensor, ground: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and int64 indices [N, count] of the nearest of ground [M, d] to each of queries [N, d], nearest first.

    Raises:
        ValueError: features of different lengths, or a count outside 1 to M.
    """
    if queries.ndim != 2 or ground.ndim != 2 or queries.shape[1] != ground.shape[1] or not 1 <= count <= len(ground):
        raise ValueError(
            f"queries and ground must be [N, d] and [M >= {count}, d], got {list(queries.shape)} and "
            f"{list(ground.shape)}"
        )
    found = [distances(part, ground).topk(count, 1, largest=False) for part in queries.split(EDGE)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def _check(real: Tensor, fake: Tensor) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"real and fake must be [N >= 2, d] and [M >= 2, d], got {list(real.shape)} and {list(fake.shape)}"
        )
