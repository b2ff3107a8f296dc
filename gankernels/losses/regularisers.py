"""Regularisers and stabilisers beside the gradient penalties: small functions; a loss is to be minimised.

Found elsewhere: R1, R2, WGAN-GP, DRAGAN and path length in `gankernels.losses.penalties`; batch norm, pixel norm and
minibatch standard deviation in `gankernels.nn`; dropout in `torch.nn`; spectral norm in
`torch.nn.utils.parametrizations`; the generator's moving average in training.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gankernels import ops
from gankernels.losses._input_gradient import FORMS, chosen_form, ones_per_sample
from gankernels.losses._widen import widen
from gankernels.nn import whole


def roth(discriminator, real: Tensor, fake: Tensor, gamma: float, c: Tensor | None = None) -> Tensor:
    """``gamma / 2 * (mean (1 - p(x))^2 |grad D(x)|^2 + mean p(G(z))^2 |grad D(G(z))|^2)``, p the sigmoid of D.

    The gradient regularisation that added noise amounts to, of the logistic loss.

    Args:
        discriminator: ``discriminator(x)`` or ``discriminator(x, c)`` -> logits [N] or [N, 1].
        real, fake: [N, C, H, W] or [N, ...].
        gamma: variance of the noise that it stands for; 0 or more.

    Returns: a scalar, differentiable in the discriminator's parameters. Outside `torch.compile` alone.
    Raises: as `r1_penalty`.

    Roth et al. 2017, "Stabilizing Training of GANs through Regularization", arXiv 1705.09367.
    """
    chosen_form("roth", discriminator, "double_backward", FORMS)
    return (_weighted(discriminator, real, c, -1) + _weighted(discriminator, fake, c, 1)) * (gamma / 2)


def _weighted(discriminator, x: Tensor, c: Tensor | None, sign: int) -> Tensor:
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = discriminator(x) if c is None else discriminator(x, c)
        ones = ones_per_sample("roth", x.shape[0])(y)
        (g,) = torch.autograd.grad(y, x, ones, create_graph=record)
    return ((widen(y).reshape(-1) * sign).sigmoid().square() * ops.sum_squares_per_sample(g)).mean()


def consensus(losses: Iterable[tuple[Tensor, Iterable[Tensor]]], gamma: float) -> Tensor:
    """Consensus optimisation: ``gamma / 2 * the sum over players of |gradient of their loss in their parameters|^2``.

    Args:
        losses: (loss, parameters) of each player, the losses with their graphs; parameters that a loss does not depend
            on count as 0.
        gamma: 0 or more.

    Returns: a scalar, which every player adds to its loss: differentiable in the parameters of all.

    Mescheder et al. 2017, "The Numerics of GANs", arXiv 1705.10461.
    """
    total = None
    for loss, parameters in losses:
        gradients = torch.autograd.grad(loss, list(parameters), create_graph=True, allow_unused=True)
        for g in gradients:
            if g is not None:
                part = widen(g).square().sum()
                total = part if total is None else total + part
    if total is None:
        raise ValueError("consensus: no loss depends on its parameters")
    return total * (gamma / 2)


def drift(real_logits: Tensor, weight: float = 1e-3) -> Tensor:
    """ProGAN's ``weight * mean D(x)^2``, which keeps a critic near 0; arXiv 1710.10196."""
    return widen(real_logits).square().mean() * weight


def smoothed_logistic(real: Tensor, fake: Tensor, target: float = 0.9) -> Tensor:
    """The discriminator's logistic loss with real labels smoothed, one-sided: cross-entropy against `target` and 0.

    Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv 1606.03498.
    """
    real, fake = widen(real), widen(fake)
    real_loss = target * softplus(-real) + (1 - target) * softplus(real)
    return real_loss.mean() + softplus(fake).mean()


def instance_noise(x: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """`x` plus N(0, sigma^2), for real and generated images alike; `annealed` gives sigma.

    Without a generator the numbers are PyTorch's own, or the samples' in a pass of `gankernels.nn.whole`.

    Arjovsky and Bottou 2017, arXiv 1701.04862; Sonderby et al. 2017, arXiv 1610.04490.
    """
    if sigma < 0:
        raise ValueError(f"instance_noise: sigma is {sigma}, expected 0 or more")
    if sigma == 0:
        return x
    if generator is None:
        return x + whole.normal(*x.shape, dtype=x.dtype, device=x.device) * sigma
    noise = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return x + noise * sigma


def annealed(start: float, images: int, until: int) -> float:
    """`start` falling linearly to 0 over the first `until` images."""
    return start * max(1 - images / until, 0.0) if until > 0 else 0.0


def orthogonal(weights: Iterable[Tensor], strength: float = 1e-4, *, diagonal: bool = False) -> Tensor:
    """``strength * sum over weights of |W W^T off the diagonal|^2``, W of [outputs, all else].

    Args:
        weights: of two dimensions or more; others (biases, gains) are refused.
        diagonal: the older form, ``|W W^T - I|^2``.

    Brock et al. 2018, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", arXiv 1809.11096.
    """
    total = None
    for w in weights:
        if w.ndim < 2:
            raise ValueError(f"orthogonal: a weight has shape {list(w.shape)}, expected two dimensions or more")
        gram = widen(w).flatten(1)
        gram = gram @ gram.t()
        eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
        part = (gram - eye if diagonal else gram * (1 - eye)).square().sum()
        total = part if total is None else total + part
    if total is None:
        raise ValueError("orthogonal: no weights")
    return total * strength


def orthogonal_(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Initialise every weight of two dimensions or more orthogonally, in place; returns the module.

    Saxe et al. 2013, arXiv 1312.6120.
    """
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            nn.init.orthogonal_(parameter, gain)
    return module


@torch.no_grad()
def clip_weights_(module: nn.Module, limit: float = 0.01) -> None:
    """Clip every parameter to +-limit, in place: WGAN's Lipschitz bound, arXiv 1701.07875."""
    if not limit > 0:
        raise ValueError(f"clip_weights_: limit is {limit}, expected over 0")
    weights = list(module.parameters())
    torch._foreach_clamp_min_(weights, -limit)
    torch._foreach_clamp_max_(weights, limit)
