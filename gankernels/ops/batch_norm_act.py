"""batch_norm_act: batch normalisation and an activation in one pass over what the statistics have read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gankernels import _backend
from gankernels.ops import (
    _check,
    _norm,
    batch_norm_act_op,  # noqa: F401  registers the kernels
)
from gankernels.ops.bias_act import ACTIVATIONS, resolved

_plain = _backend.plain_call("batch_norm_act")


def batch_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
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
    """``gain * act(weight * (x - mean) / sqrt(var + eps) + bias)``, a mean and variance for each channel.

    Args:
        x: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        weight, bias: [C], or None for 1 and 0.
        running_mean, running_var: [C], or both None. Given while training, both move towards the batch's mean and
            unbiased variance by `momentum`, in place.
        training: normalise with the batch's mean and biased variance; else with the running ones.
        momentum: share of the new in the running statistics.
        eps: added to the variance, over 0.
        act, alpha: as in `bias_act`.
        gain: factor after the activation.

    The four [C] tensors have one dtype: that of x, or float32 where x has 16 bits.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, weight and bias: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype. An empty batch changes no
        statistics.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel in training.

    Ioffe and Szegedy 2015, arXiv 1502.03167.
    """
    if _backend.plain_calls() and type(act) is str:
        alpha_, gain_, _ = resolved("batch_norm_act", act, alpha, 1.0 if gain is None else gain, None)
        y = _plain(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha_, gain_)
        if y is not NotImplemented:
            return y
    options = {"training": training, "momentum": momentum, "eps": eps, "act": act, "alpha": alpha, "gain": gain}
    args = checked(x, weight, bias, running_mean, running_var, **options)
    return _backend.pick("batch_norm_act", x)(*args)


def checked(x, weight, bias, running_mean, running_var, *, training, momentum, eps, act, alpha, gain) -> tuple:
    """The arguments of `batch_norm_act`, checked, as the backends take them."""
    op = "batch_norm_act"
    _norm.check_x(op, x)
    running = _norm.check_batch(op, x, running_mean, running_var, training)
    per_channel = (x.shape[1],), "x.shape[1]"
    _norm.check_numbers(op, x, {"weight": (weight, *per_channel), "bias": (bias, *per_channel), **running})
    _norm.check_count(op, x, training)
    momentum = _check.finite(op, "momentum", momentum)
    eps, alpha, gain = _norm.check_settings(op, eps, act, alpha, gain)
    return x, weight, bias, running_mean, running_var, bool(training), momentum, eps, act, alpha, gain


def reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    act: str,
    alpha: float,
    gain: float,
) -> Tensor:
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    y = ACTIVATIONS[act][0](y, alpha)
    return y if gain == 1 else y * gain


def functional(kernel):
    """(y, mean, invstd) from a kernel that returns these and the unbiased variance, and changes nothing.

    The running statistics move here, by ordinary in-place PyTorch: what torch.compile, opcheck and vmap know about.
    """

    def run(x, weight, bias, running_mean, running_var, training, momentum, eps, act, alpha, gain):
        y, mean, invstd, var = kernel(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain)
        if training and running_mean is not None and x.numel():
            # detach, not no_grad: a program exported with such a block cannot be loaded again
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            running_var.lerp_(var.detach().to(running_var.dtype), momentum)
        return y, mean, invstd

    return run


def value(kernel):
    """As `functional`, the value alone."""
    run = functional(kernel)
    return lambda *args: run(*args)[0]


def _plain_with_statistics(x, weight, bias, running_mean, running_var, training, eps, act, alpha, gain):
    """The dispatcher's operator: it gives the statistics, and whoever called it moves the running ones."""
    wide = _norm.wide(x)
    dims = [d for d in range(x.ndim) if d != 1]
    if training:
        biased, mean = torch.var_mean(wide, dims, correction=0)
        var = wide.var(dims)
    else:
        mean, biased = (t.to(wide.dtype) for t in (running_mean, running_var))
        var = biased
    if all(t is None or t.ndim == 1 for t in (weight, bias)):
        running = (None, None) if training else (running_mean, running_var)
        y = reference(x, weight, bias, *running, training, 0.0, eps, act, alpha, gain)
    else:  # a sample's own, or as 1 + scale and shift an element's
        factor = _norm.beside(x, weight) if weight.ndim == 2 else 1 + _norm.wide(weight)
        y = _norm.finished(x, _norm.normalized(x, mean, biased, eps) * factor + _norm.beside(x, bias), act, alpha, gain)
    return y, mean, (biased + eps).rsqrt(), var


_backend.register_plain("batch_norm_act", _plain_with_statistics)
_backend.register("batch_norm_act", reference=reference, **_norm.by_backend("batch_norm_act", value))
