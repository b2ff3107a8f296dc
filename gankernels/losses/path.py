"""StyleGAN2's path length regulariser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import ops
from gankernels.losses._input_gradient import FORMS, chosen_form, input_gradient
from gankernels.losses.penalties import Network, _check_samples, _normal, _weight
from gankernels.ops import _check


def path_length(
    synthesis: Network,
    ws: Tensor,
    mean: Tensor,
    weight: float = 2.0,
    decay: float = 0.01,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    form: str | None = None,
) -> Tensor:
    """StyleGAN2's path length regulariser: ``weight * mean over samples of (length - mean)^2``.

    A sample's length is that of the gradient in its w of ``<image, noise> / sqrt(H W)``, in the root mean square over
    layers: ``sqrt(mean over layers of the sum over w of gradient^2)``.

    Args:
        synthesis: ``synthesis(ws)`` -> images [N, C, H, W].
        ws: [N, layers, D], or [N, D] for one layer. Its graph is kept: the mapping network gets its gradients too.
        mean: [1], float32 or float64: the moving mean of lengths; start it at 0 and keep it with the optimiser's state.
            It is first moved towards this batch's mean by `decay`, in place, and then is the target, a constant.
        weight: 0 or more.
        decay: share of the new in the mean, from 0 to 1.
        generator: as in `wgan_gp`.
        noise: shape of the images, in place of normal draws.
        form: "double_backward", "adjoint" or None, as in `r1_penalty`.

    Returns: a scalar, to be minimised. Differentiable in the generator's parameters and in ws.
    Raises: as `r1_penalty`.

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", arXiv 1912.04958.
    """
    op = "path_length"
    _check_samples(op, "ws", ws)  # before the mean, which has its device
    weight, decay = _weight(op, "weight", weight), _weight(op, "decay", decay)
    if decay > 1:
        raise ValueError(f"{op}: decay is {decay}, expected 0 to 1")
    _check_mean(op, mean, ws)
    lengths = path_lengths(synthesis, ws, generator=generator, noise=noise, form=form)
    target = moved(mean, lengths.mean(), decay)
    return (lengths - target).square().mean() * weight


def path_lengths(
    synthesis: Network,
    ws: Tensor,
    *,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    form: str | None = None,
) -> Tensor:
    """The lengths [N] of which `path_length` penalises the deviation from their moving mean; arguments as there."""
    op = "path_length"
    _check_samples(op, "ws", ws)
    if ws.ndim not in (2, 3):
        raise ValueError(f"{op}: ws has shape {list(ws.shape)}, expected [N, layers, D] or [N, D]")
    form = chosen_form(op, synthesis, form, FORMS[:2])

    def cotangent(images: Tensor) -> Tensor:
        _check.floating(op, "the generator's output", images)
        if images.ndim != 4 or images.shape[0] != ws.shape[0]:
            raise ValueError(
                f"{op}: the generator returned shape {list(images.shape)}, expected [{ws.shape[0]}, C, H, W]"
            )
        if noise is None:
            draws = _normal(op, images.shape, images, generator)
        else:
            _check.like(op, "noise", noise, images, "the images")
            if noise.shape != images.shape:
                raise ValueError(f"{op}: noise has shape {list(noise.shape)}, expected {list(images.shape)}")
            draws = noise
        return draws.detach() / math.sqrt(images.shape[2] * images.shape[3])

    g = input_gradient(op, synthesis, ws, None, form, cotangent)
    return ops.norm_per_sample(g) / math.sqrt(ws.shape[1] if ws.ndim == 3 else 1)


@torch.no_grad()
def moved(mean: Tensor, now: Tensor, decay: float = 0.01) -> Tensor:
    """`mean`, moved in place towards a batch's mean `now` by `decay`, as a constant; left alone by what is not finite.

    The latter is an overflow of 16 bits, whose step is skipped: the mean would never recover.
    """
    target = torch.lerp(mean, now.to(mean.dtype), decay)
    mean.copy_(torch.where(target.isfinite(), target, mean))
    return target


def _check_mean(op: str, mean: Tensor, ws: Tensor) -> None:
    _check.floating(op, "mean", mean)
    # Not a scalar tensor: torch.compile loses changes of those that are arguments (PyTorch 2.13), silently.
    if mean.shape != (1,) or mean.element_size() < 4 or mean.requires_grad or mean.device != ws.device:
        raise ValueError(
            f"{op}: mean is {mean.dtype} {list(mean.shape)} on {mean.device}"
            f"{', requires grad' if mean.requires_grad else ''}, expected a buffer [1], float32 or float64, on "
            f"{ws.device}: torch.zeros(1, device=...)"
        )
