"""conditional_batch_norm: batch normalisation whose scale and shift are each sample's own, with an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _norm
from gankernels.ops.batch_norm_act import value

_NAME = "conditional_batch_norm"


def conditional_batch_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float = 1.0,
) -> Tensor:
    """``gain * act(scale * (x - mean) / sqrt(var + eps) + shift)``, statistics of a channel, the rest a sample's.

    Args:
        x: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        scale, shift: [N, C].
        running_mean, running_var: [C], or both None. Given while training, both move towards the batch's mean and
            unbiased variance by `momentum`, in place.
        training: normalise with the batch's mean and biased variance; else with the running ones.
        momentum: share of the new in the running statistics.
        eps: added to the variance, over 0.
        act, alpha: as in `bias_act`.
        gain: factor after the activation.

    scale, shift and the running statistics have one dtype: that of x, or float32 where x has 16 bits.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, scale and shift: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype, scale and shift take that of
        the running statistics, else that of x. An empty batch changes no statistics.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel in training.

    De Vries et al. 2017, arXiv 1707.00683; Brock et al. 2018, arXiv 1809.11096.
    """
    options = {"training": training, "momentum": momentum, "eps": eps, "act": act, "alpha": alpha, "gain": gain}
    args = checked(x, scale, shift, running_mean, running_var, **options)
    return _backend.pick(_NAME, x)(*args)


def checked(x, scale, shift, running_mean, running_var, *, training, momentum, eps, act, alpha, gain) -> tuple:
    """The arguments of `conditional_batch_norm`, checked, as the backends take them."""
    _norm.check_x(_NAME, x)
    scale, shift = _norm.follow(running_mean if isinstance(running_mean, Tensor) else x, scale, shift)
    running = _norm.check_batch(_NAME, x, running_mean, running_var, training)
    per_cell = tuple(x.shape[:2]), "x.shape[:2]"
    _norm.check_numbers(_NAME, x, {"scale": (scale, *per_cell), "shift": (shift, *per_cell)}, optional=False)
    _norm.check_numbers(_NAME, x, {"scale": (scale, *per_cell), **running})
    _norm.check_count(_NAME, x, training)
    momentum = _check.finite(_NAME, "momentum", momentum)
    eps, alpha, gain = _norm.check_settings(_NAME, eps, act, alpha, gain)
    return x, scale, shift, running_mean, running_var, bool(training), momentum, eps, act, alpha, gain


def reference(x, scale, shift, running_mean, running_var, training, momentum, eps, act, alpha, gain) -> Tensor:
    """scale and shift are [N, C]."""
    xh = _norm.batch_normalized(x, running_mean, running_var, training, momentum, eps)
    return _norm.finished(x, torch.addcmul(_norm.beside(x, shift), xh, _norm.beside(x, scale)), act, alpha, gain)


_backend.register(_NAME, reference=reference, **_norm.by_backend("batch_norm_act", value))
_backend.compounds.add(_NAME)  # the kernels are batch_norm_act's
