"""Gradient penalties, right in eager and under `torch.compile(fullgraph=True)`.

All stand on `ops.sum_squares_per_sample` and `ops.norm_per_sample` of the gradient in the input. How that gradient is
taken is the argument ``form``:

- ``"double_backward"``, the default: `torch.autograd.grad(create_graph=True)` through any network, on kernels of ours
  where it is made of our operators.
- ``"adjoint"``, the default inside `torch.compile`, which has no second derivative: the gradient written out as forward
  code, by `gankernels.nn.linearize`. Only for networks whose layers have a rule there; others are refused.
- ``"tangent"`` (R1 and R2 only): differentiates the directional derivative of D along the constant gradient, which has
  the same parameter gradient; by the same rules. It measured a fifth slower and larger than the other two, so it is no
  default; docs/penalties.md has the figures.

Inputs are detached (`path_length`'s are not): a penalty is minimised by the network that is given. Only gradients that
are asked for are computed. Under `torch.no_grad` a penalty is its value. A network that is compiled itself,
`torch.func`, and `torch.inference_mode` are refused. Where batch statistics couple the samples, the gradient is that
of the outputs' sum. Penalties are float32 (float64 for float64) whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gankernels import ops
from gankernels.losses._input_gradient import FORMS, chosen_form, directional, input_gradient, ones_per_sample
from gankernels.nn import whole
from gankernels.ops import _check

Network = Callable[..., Tensor]


def r1_penalty(
    discriminator: Network, real: Tensor, gamma: float, c: Tensor | None = None, *, form: str | None = None
) -> Tensor:
    """``gamma / 2 * mean over samples of |gradient of D at a real sample|^2``.

    Args:
        discriminator: module or function, ``discriminator(real)`` or ``discriminator(real, c)``: [N] or [N, 1, ...].
        real: [N, C, H, W] or [N, ...], floating point.
        gamma: 0 or more.
        c: condition, passed on as it is; None for none.
        form: "double_backward", "adjoint", "tangent" or None for the default; see the module's docstring.

    Returns: a scalar, to be minimised. Differentiable in the discriminator's parameters (and in c); with form
        "tangent" once.
    Raises: ValueError for a bad argument or an output that is not one number a sample; RuntimeError where it would be
        wrong (torch.func, a compiled discriminator, inference mode); TypeError for a network without a rule where
        form needs one. Each says what to do.

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", arXiv 1801.04406.
    """
    return _squared("r1_penalty", discriminator, "real", real, gamma, c, form)


def r2_penalty(
    discriminator: Network, fake: Tensor, gamma: float, c: Tensor | None = None, *, form: str | None = None
) -> Tensor:
    """`r1_penalty` on generated samples: ``gamma / 2 * mean |gradient of D at a fake sample|^2``.

    Everything else is as there. arXiv 1801.04406.
    """
    return _squared("r2_penalty", discriminator, "fake", fake, gamma, c, form)


def _squared(op: str, discriminator: Network, name: str, x: Tensor, gamma: float, c, form: str | None) -> Tensor:
    _check_samples(op, name, x)
    gamma = _weight(op, "gamma", gamma)
    form = chosen_form(op, discriminator, form, FORMS)
    x = x.detach()
    if form != "tangent":
        g = input_gradient(op, discriminator, x, c, form, ones_per_sample(op, x.shape[0]))
        return ops.sum_squares_per_sample(g).mean() * (gamma / 2)
    # d/dp |g|^2 / 2 = <dg/dp, g> = d/dp of D's derivative along the constant g. Constants then set the value right.
    along, g = directional(op, discriminator, x, c)
    along = along.to(torch.promote_types(along.dtype, torch.float32)).sum() * (gamma / x.shape[0])
    return along - along.detach() + ops.sum_squares_per_sample(g).mean() * (gamma / 2)


def wgan_gp(
    discriminator: Network,
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    sided: int = 2,
    target: float = 1.0,
    c: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    mix: Tensor | None = None,
    form: str | None = None,
) -> Tensor:
    """``weight * mean (|gradient of D| - target)^2`` at points drawn on the lines between real and fake samples.

    Args:
        discriminator, c, form: as in `r1_penalty`, without "tangent".
        real, fake: [N, C, H, W] or [N, ...], of one shape, dtype and device.
        weight: 0 or more.
        sided: 2, or 1 to penalise only norms above target.
        target: the norm wanted, 0 or more.
        generator: the source of the random numbers, drawn on its device; None for PyTorch's own, or those of the
            samples' keys in `gankernels.nn.whole.running`.
        mix: [N], shares of the real samples, in place of uniform draws from [0, 1).

    Returns: a scalar, to be minimised. Differentiable in the discriminator's parameters; where a gradient is 0, its
        norm's derivative counts as 0.
    Raises: as `r1_penalty`.

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv 1704.00028 (one-sided: its section 4).
    """
    op = "wgan_gp"
    _check_samples(op, "real", real)
    _check.like(op, "fake", fake, real, "real")
    if fake.shape != real.shape:
        raise ValueError(f"{op}: fake has shape {list(fake.shape)}, expected {list(real.shape)} as real")
    weight, target = _weight(op, "weight", weight), _weight(op, "target", target)
    if sided not in (1, 2):
        raise ValueError(f"{op}: sided is {sided!r}, expected 1 or 2")
    if mix is None:
        mix = _uniform(op, real.shape[:1], real, generator)
    else:
        _check.like(op, "mix", mix, real, "real")
        if mix.shape != real.shape[:1]:
            raise ValueError(f"{op}: mix has shape {list(mix.shape)}, expected [{real.shape[0]}], one number a sample")
    between = torch.lerp(fake.detach(), real.detach(), _per_sample(mix, real))
    return _norm_penalty(op, discriminator, between, weight, sided, target, c, form)


def dragan(
    discriminator: Network,
    real: Tensor,
    weight: float = 10.0,
    c: Tensor | None = None,
    *,
    spread: float = 0.5,
    target: float = 1.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    form: str | None = None,
) -> Tensor:
    """``weight * mean (|gradient of D| - target)^2`` at points drawn around real samples.

    The points are ``real + a * spread * std(real) * u``, a uniform in [0, 1) for each sample, u for each number, std
    that of the whole batch (biased): the published program's noise; the paper's text has a Gaussian, which `noise`
    can be.

    Args:
        discriminator, c, form: as in `r1_penalty`, without "tangent".
        real: [N, C, H, W] or [N, ...].
        weight, spread, target: 0 or more.
        generator: as in `wgan_gp`.
        noise: shape of real, added to it in place of the random numbers.

    Returns, raises: as `wgan_gp`.

    Kodali et al. 2017, "On Convergence and Stability of GANs", arXiv 1705.07215.
    """
    op = "dragan"
    _check_samples(op, "real", real)
    weight, spread = _weight(op, "weight", weight), _weight(op, "spread", spread)
    target = _weight(op, "target", target)
    real = real.detach()
    if noise is None:
        a = _per_sample(_uniform(op, real.shape[:1], real, generator), real)
        scale = _deviation(real) * spread
        noise = a * scale * _uniform(op, real.shape, real, generator)
    else:
        _check.like(op, "noise", noise, real, "real")
        if noise.shape != real.shape:
            raise ValueError(f"{op}: noise has shape {list(noise.shape)}, expected {list(real.shape)} as real")
    return _norm_penalty(op, discriminator, real + noise.detach(), weight, 2, target, c, form)


def _deviation(real: Tensor) -> Tensor:
    """Of all numbers of the batch, of the whole one where `real` is a share of it; biased."""
    batch = whole.current()
    if batch is None:
        return real.std(correction=0)
    centred = real - batch.mean(real.mean(), "dragan's deviation")
    return batch.mean(centred.square().mean(), "dragan's deviation").sqrt()


def _norm_penalty(op, discriminator, x, weight, sided, target, c, form) -> Tensor:
    form = chosen_form(op, discriminator, form, FORMS[:2])
    g = input_gradient(op, discriminator, x, c, form, ones_per_sample(op, x.shape[0]))
    off = ops.norm_per_sample(g) - target
    if sided == 1:
        off = off.relu()
    return off.square().mean() * weight


def _check_samples(op: str, name: str, x: Tensor) -> None:
    _check.floating(op, name, x)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {list(x.shape)}, expected [N, C, H, W] or [N, ...], not empty")


def _weight(op: str, name: str, value: float) -> float:
    value = _check.finite(op, name, value)
    if value < 0:
        raise ValueError(f"{op}: {name} is {value}, expected 0 or more")
    return value


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _uniform(op: str, shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return _drawn(op, "uniform", shape, like, generator)


def _normal(op: str, shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return _drawn(op, "normal", shape, like, generator)


def _drawn(op: str, kind: str, shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return getattr(whole, kind)(*shape, dtype=like.dtype, device=like.device)
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"{op}: torch.compile cannot draw from a torch.Generator; draw outside and pass the numbers (mix or noise)"
        )
    draw = torch.rand if kind == "uniform" else torch.randn
    return draw(shape, dtype=like.dtype, device=generator.device, generator=generator).to(like.device)
