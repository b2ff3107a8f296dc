"""instance_norm_act: each channel of each sample normalised by itself, with an activation in the same pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import (
    _norm,
    batch_norm_act_op,  # noqa: F401  registers the kernels
)

_NAME = "instance_norm_act"


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    act: str = "linear",
    alpha: float | None = None,
    gain: float = 1.0,
) -> Tensor:
    """``gain * act(weight * (x - mean) / sqrt(var + eps) + bias)``, a mean and variance for each channel of a sample.

    Args:
        x: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        weight, bias: [C], or None for 1 and 0; one dtype, that of x, or float32 where x has 16 bits.
        eps: added to the biased variance, over 0.
        act, alpha: as in `bias_act`.
        gain: factor after the activation.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, weight and bias: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype, weight and bias follow it.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel of a sample.

    Ulyanov et al. 2016, arXiv 1607.08022.
    """
    args = checked(x, weight, bias, eps=eps, act=act, alpha=alpha, gain=gain)
    return _backend.pick(_NAME, x)(*args)


def checked(x, weight, bias, *, eps, act, alpha, gain) -> tuple:
    """The arguments of `instance_norm_act`, checked, as the backends take them."""
    _norm.check_x(_NAME, x, 3)
    weight, bias = _norm.follow(x, weight, bias)
    per_channel = (x.shape[1],), "x.shape[1]"
    _norm.check_numbers(_NAME, x, {"weight": (weight, *per_channel), "bias": (bias, *per_channel)})
    check_size(_NAME, "x", x)
    eps, alpha, gain = _norm.check_settings(_NAME, eps, act, alpha, gain)
    return x, weight, bias, eps, act, alpha, gain


def check_size(op: str, name: str, t: Tensor) -> None:
    if math.prod(t.shape[2:]) == 1:
        raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected more than 1 value per channel of a sample")


def per_sample(x: Tensor, *tensors: Tensor | None, dtype: torch.dtype | None = None) -> list[Tensor | None]:
    """weight or bias [C] as [N, C]: its gradient comes back for each sample, and is summed over them in this dtype."""
    expanded = []
    for t in tensors:
        if t is not None and t.ndim == 1:
            t = (_norm.wide(t) if dtype is None else t.to(dtype)).expand(x.shape[0], -1)
        expanded.append(t)
    return expanded


def reference(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, act: str, alpha: float, gain: float):
    """weight and bias are [C] or [N, C]."""
    weight, bias = per_sample(x, weight, bias)
    var, mean = _norm.instance_statistics(x)
    u = _norm.normalized(x, mean, var, eps)
    u = u if weight is None else u * _norm.beside(x, weight)
    return _norm.finished(x, u if bias is None else u + _norm.beside(x, bias), act, alpha, gain)


def plain_with_statistics(x, weight, bias, eps, act, alpha, gain):
    var, mean = _norm.instance_statistics(x)
    return reference(x, weight, bias, eps, act, alpha, gain), mean, (var + eps).rsqrt()


def _plain_statistics(x, eps):
    var, mean = _norm.instance_statistics(x)
    return mean, (var + eps).sqrt()


_backend.register_plain(_NAME, plain_with_statistics)
_backend.register_plain("instance_statistics", _plain_statistics)


def _value(kernel, dtype=None):
    return lambda x, weight, bias, *rest: kernel(x, *per_sample(x, weight, bias, dtype=dtype), *rest)[0]


BACKENDS = _norm.by_backend(_NAME, _value)
BACKENDS["cpu"] = _value(_backend.native(_NAME), torch.float64)  # the kernel's sums are double: not rounded in between
_backend.register(_NAME, reference=reference, **BACKENDS)
_backend.compounds.add(_NAME)  # the kernels are batch_norm_act's
