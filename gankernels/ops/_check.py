"""Checks that every operator makes of its arguments, and their messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tensor(op: str, name: str, t: object) -> None:
    if not isinstance(t, Tensor):
        hint = "; arrays are taken where x is one" if hasattr(t, "__dlpack__") else ""
        raise ValueError(f"{op}: {name} is {type(t).__name__}, expected a torch.Tensor{hint}")


def floating(op: str, name: str, t: Tensor) -> None:
    tensor(op, name, t)
    if t.dtype not in FLOATING:
        raise ValueError(
            f"{op}: {name} has dtype {t.dtype}, expected float16, bfloat16, float32 or float64; convert it first"
        )


def like(op: str, name: str, t: Tensor, x: Tensor, x_name: str = "x") -> None:
    """`t` has the dtype and device of `x`."""
    tensor(op, name, t)
    if t.dtype != x.dtype:
        raise ValueError(f"{op}: {name} has dtype {t.dtype}, expected {x.dtype} as {x_name}; convert one of them")
    if t.device != x.device:
        raise ValueError(f"{op}: {name} is on {t.device}, expected {x.device} as {x_name}; move one of them")


def rank(op: str, name: str, t: Tensor, n: int, shape: str) -> None:
    tensor(op, name, t)
    if t.ndim != n:
        raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected {n} dimensions {shape}")


def channels(op: str, name: str, t: Tensor, dim: int = 1) -> None:
    """`t` has channels, along dimension `dim`."""
    if t.shape[dim] == 0:
        raise ValueError(f"{op}: {name} has shape {list(t.shape)}, expected 1 channel or more along dimension {dim}")


def pixels(op: str, size: Sequence[int], x: Tensor) -> None:
    """An image of the result, [H, W] = `size`, is one that kernels can count; the number of images is not bounded."""
    if size[0] * size[1] >= 2**31:
        raise ValueError(
            f"{op}: the result's images would have [H, W] = {list(size)}, for x {list(x.shape)}, expected fewer than "
            "2^31 pixels; resample by less, or in parts"
        )


def finite(op: str, name: str, value: float) -> float:
    # A comparison, not math.isfinite: torch.compile traces it on symbolic numbers.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -math.inf < value < math.inf:
        raise ValueError(f"{op}: {name} is {value!r}, expected a finite number")
    return value * 1.0


def count(op: str, name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{op}: {name} is {value!r}, expected an integer of 1 or more")
    return value


def constant(n: int) -> int:
    """`n` as a number that torch.compile takes for a constant, where expressions in it would grow without end."""
    return range(n).stop


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives operators on the device of `x`, or None where it is off."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def cast(x: Tensor, t: Tensor) -> Tensor:
    """`t` in the dtype of `x` under autocast, where parameters follow x; else as it is."""
    follows = autocast_dtype(x) is not None and isinstance(t, Tensor) and t.is_floating_point()
    return t.to(x.dtype) if follows else t


def kept_format(x: Tensor, dim: int = 1) -> torch.memory_format:
    """The memory format of a result that keeps that of `x`: channels_last where x is, else contiguous."""
    if dim == 1 and x.ndim in (4, 5):
        last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        if torch._prims_common.suggest_memory_format(x) == last:
            return last
    return torch.contiguous_format
