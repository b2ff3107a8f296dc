"""adain: a channel of a sample normalised, then scaled and shifted to the style's numbers or to another image's."""

from __future__ import annotations

from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check, _norm
from gankernels.ops.instance_norm_act import BACKENDS, check_size
from gankernels.ops.instance_norm_act import reference as _instance_norm

_LINEAR = ("linear", 0.0, 1.0)


def adain(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """``scale * (x - mean) / sqrt(var + eps) + shift``, all four for each channel of each sample.

    Args:
        x: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        scale, shift: [N, C]; one dtype, that of x, or float32 where x has 16 bits.
        eps: added to the biased variance, over 0.

    Returns: shape and dtype of x; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in x, scale and shift: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast x keeps its dtype, scale and shift follow it.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, or one value a channel of a sample.

    Huang and Belongie 2017, arXiv 1703.06868.
    """
    args = checked(x, scale, shift, eps)
    return _backend.pick("adain", x)(*args)


def checked(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple:
    """The arguments of `adain`, checked, as the backends take them."""
    _norm.check_x("adain", x, 3)
    scale, shift = _norm.follow(x, scale, shift)
    per_cell = tuple(x.shape[:2]), "x.shape[:2]"
    _norm.check_numbers("adain", x, {"scale": (scale, *per_cell), "shift": (shift, *per_cell)}, optional=False)
    check_size("adain", "x", x)
    eps, *_ = _norm.check_settings("adain", eps, "linear", None, None)
    return x, scale, shift, eps


def adain_from(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """`adain` of `content` with the statistics of `style`: its mean, and ``sqrt(var + eps)`` as the scale.

    Args:
        content: [N, C, H, W] (or [N, C, ...]); float16, bfloat16, float32 or float64.
        style: [N, C, ...] with sizes of its own, dtype and device of content.
        eps: added to both biased variances, over 0.

    Returns: shape and dtype of content; channels_last stays channels_last, other layouts become contiguous.
        Differentiable in content and style: first and second order run on kernels, the third raises (backend
        "reference" has it). Sums are float32 or better; under autocast content keeps its dtype, style follows it.
    Raises: ValueError for an argument of the wrong kind, shape, dtype or device, one value a channel of a sample, or
        none in style.

    Huang and Belongie 2017, arXiv 1703.06868.
    """
    name = "adain_from"
    _check.floating(name, "content", content)
    (style,) = _norm.follow(content, style)
    _check.like(name, "style", style, content, "content")
    for label, t in (("content", content), ("style", style)):
        if t.ndim < 3:
            raise ValueError(f"{name}: {label} has shape {list(t.shape)}, expected [N, C, H, W]")
        check_size(name, label, t)
    if style.shape[:2] != content.shape[:2] or 0 in style.shape[2:]:
        raise ValueError(
            f"{name}: style has shape {list(style.shape)}, expected {list(content.shape[:2])} as content, then sizes "
            "over 0"
        )
    eps, *_ = _norm.check_settings(name, eps, "linear", None, None)
    return _backend.pick(name, content)(content, style, eps)


def reference(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    return _instance_norm(x, scale, shift, eps, *_LINEAR)


def reference_from(content: Tensor, style: Tensor, eps: float) -> Tensor:
    var, mean = _norm.instance_statistics(style)
    return reference(content, (var + eps).sqrt(), mean, eps)


def _from(name, statistics):
    def run(content, style, eps):
        mean, deviation = statistics(style, eps)
        return BACKENDS[name](content, deviation, mean, eps, *_LINEAR)

    return run


def _with_numbers(norm):
    return lambda x, scale, shift, eps: norm(x, scale, shift, eps, *_LINEAR)


_statistics = _norm.by_backend("instance_statistics", lambda kernel: kernel)
_backend.register("adain", reference=reference, **{k: _with_numbers(norm) for k, norm in BACKENDS.items()})
_backend.register("adain_from", reference=reference_from, **{k: _from(k, f) for k, f in _statistics.items()})
_backend.compounds |= {"adain", "adain_from"}
