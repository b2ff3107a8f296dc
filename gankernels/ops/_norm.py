"""What the normalisations share: checks of their arguments, and their plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels import _backend
from gankernels.ops import _check
from gankernels.ops.bias_act import ACTIVATIONS, resolve


def check_x(op: str, x: Tensor, least: int = 2) -> None:
    _check.floating(op, "x", x)
    if x.ndim < least:
        shape = "[N, C, H, W]" if least > 2 else "[N, C, ...]"
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected {shape}")
    _check.channels(op, "x", x)


def check_numbers(
    op: str, x: Tensor, given: dict[str, tuple[Tensor | None, tuple, str]], optional: bool = True
) -> None:
    """Each of `given` (tensor or None, its shape, what that is) has its shape, and one dtype that goes with x."""
    kinds = {x.dtype, torch.float32} if x.element_size() == 2 else {x.dtype}
    first = None
    for name, (t, shape, what) in given.items():
        if t is None and optional:
            continue
        _check.tensor(op, name, t)
        if tuple(t.shape) != tuple(shape):
            raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected {list(shape)} ({what})")
        if t.device != x.device:
            raise ValueError(f"{op}: {name} is on {t.device}, expected {x.device} as x; move one of them")
        if t.dtype not in kinds:
            raise ValueError(
                f"{op}: {name} has dtype {t.dtype}, expected {' or '.join(sorted(map(str, kinds)))}; convert it"
            )
        first = first or name
        if t.dtype != given[first][0].dtype:
            raise ValueError(
                f"{op}: {name} has dtype {t.dtype}, expected {given[first][0].dtype} as {first}; convert one"
            )


def check_settings(
    op: str, eps: float, act: str, alpha: float | None, gain: float | None
) -> tuple[float, float, float]:
    """(eps, alpha, gain), of which gain is 1 unless given."""
    eps = _check.finite(op, "eps", eps)
    if eps <= 0:
        raise ValueError(f"{op}: eps is {eps}, expected more than 0")
    alpha, gain, _ = resolve(op, act, alpha, 1.0 if gain is None else gain, None)
    return eps, alpha, gain


def check_batch(op: str, x: Tensor, running_mean, running_var, training: bool) -> dict[str, tuple]:
    """What of x and running statistics a batch's normalisation asks for; gives the latter for `check_numbers`."""
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: of running_mean and running_var one is None, expected both or neither")
    if not training and running_mean is None:
        raise ValueError(f"{op}: running_mean is None, expected a tensor [C] where training is False")
    for name, t in (("running_mean", running_mean), ("running_var", running_var)):
        if isinstance(t, Tensor) and t.requires_grad:
            raise ValueError(f"{op}: {name} requires grad, expected a buffer; it has no derivative")
    per_channel = (x.shape[1],), "x.shape[1]"
    return {"running_mean": (running_mean, *per_channel), "running_var": (running_var, *per_channel)}


def check_count(op: str, x: Tensor, training: bool) -> None:
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected more than 1 value per channel when training")


def follow(x: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """Under autocast what a layer before gave in another dtype is cast to that of x, which keeps its own."""
    if _check.autocast_dtype(x) is None:
        return list(tensors)
    return [t.to(x.dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in tensors]


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def beside(x: Tensor, t: Tensor | None) -> Tensor | None:
    """[C] or [N, C] so that it broadcasts with x."""
    if t is None or t.ndim > 2:
        return t
    return t.reshape(-1 if t.ndim == 2 else 1, x.shape[1], *[1] * (x.ndim - 2))


def normalized(x: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    return (wide(x) - beside(x, mean)) * (beside(x, var) + eps).rsqrt()


def batch_normalized(x, running_mean, running_var, training, momentum, eps) -> Tensor:
    """x less its channels' mean over their deviation, in float32 or better; running statistics move."""
    if not training:
        return normalized(x, running_mean, running_var, eps)
    if not x.numel():
        return wide(x) * 1
    var, mean = torch.var_mean(wide(x), [0, *range(2, x.ndim)], correction=0)
    if running_mean is not None:
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return normalized(x, mean, var, eps)


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """(variance, mean) of each channel of each sample, [N, C] in float32 or better."""
    if not x.numel():  # which PyTorch warns of
        return wide(x).sum(list(range(2, x.ndim))), wide(x).sum(list(range(2, x.ndim)))
    return torch.var_mean(wide(x), list(range(2, x.ndim)), correction=0)


def finished(x: Tensor, u: Tensor, act: str, alpha: float, gain: float) -> Tensor:
    """gain * act(u) in the dtype and layout of x."""
    y = ACTIVATIONS[act][0](u, alpha)
    return (y if gain == 1 else y * gain).to(x.dtype).contiguous(memory_format=_check.kept_format(x))


def triton(name: str):
    return lambda *args: getattr(torch.ops.gankernels, name)(*args)


def by_backend(name: str, use) -> dict:
    """Backends of an operator that `use` makes of the kernel operator `name`."""
    native = _backend.native(name)
    return {"cpu": use(native), "cuda": use(native), "triton": use(triton(name))}
