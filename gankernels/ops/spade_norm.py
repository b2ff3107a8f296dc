"""spade_norm: batch normalisation whose scale and shift are each pixel's own, with an activation."""

from __future__ import annotations

from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _norm
from gankernels.ops.batch_norm_act import value

_NAME = "spade_norm"


def spade_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float = 1.0,
) -> Tensor:
    """``gain * act((1 + scale) * (x - mean) / sqrt(var + eps) + shift)``, statistics of a channel, all else a pixel's.

    Args:
        x: [N, C, H, W] (or [N, C, L], [N, C, D, H, W]); float16, bfloat16, float32 or float64.
        scale, shift: shape and dtype of x.
        running_mean, running_var: [C] of one dtype, that of x or float32 where x has 16 bits; or both None. Given while
            training, both move towards the batch's mean and unbiased variance by `momentum`, in place.
        training: normalise with the batch's mean and biased variance; else with the running ones.
        momentum: share of the new in the running statistics.
        eps: added to the variance, over 0.
        act, alpha: as in `bias_act`.
        gain: factor after the activation.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, scale and shift: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype, scale and shift follow it. An
        empty batch changes no statistics.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel in training.

    Park et al. 2019, arXiv 1903.07291.
    """
    options = {"training": training, "momentum": momentum, "eps": eps, "act": act, "alpha": alpha, "gain": gain}
    args = checked(x, scale, shift, running_mean, running_var, **options)
    return _backend.pick(_NAME, x)(*args)


def checked(x, scale, shift, running_mean, running_var, *, training, momentum, eps, act, alpha, gain) -> tuple:
    """The arguments of `spade_norm`, checked, as the backends take them."""
    _norm.check_x(_NAME, x, 3)
    scale, shift = _norm.follow(x, scale, shift)
    for name, t in (("scale", scale), ("shift", shift)):
        _check.like(_NAME, name, t, x)
        if t.shape != x.shape:
            raise ValueError(f"{_NAME}: {name} has shape {list(t.shape)}, expected {list(x.shape)} as x")
    _norm.check_numbers(_NAME, x, _norm.check_batch(_NAME, x, running_mean, running_var, training))
    _norm.check_count(_NAME, x, training)
    momentum = _check.finite(_NAME, "momentum", momentum)
    eps, alpha, gain = _norm.check_settings(_NAME, eps, act, alpha, gain)
    return x, scale, shift, running_mean, running_var, bool(training), momentum, eps, act, alpha, gain


def reference(x, scale, shift, running_mean, running_var, training, momentum, eps, act, alpha, gain) -> Tensor:
    xh = _norm.batch_normalized(x, running_mean, running_var, training, momentum, eps)
    return _norm.finished(x, (1 + _norm.wide(scale)) * xh + _norm.wide(shift), act, alpha, gain)


_backend.register(_NAME, reference=reference, **_norm.by_backend("batch_norm_act", value))
_backend.compounds.add(_NAME)  # the kernels are batch_norm_act's
