"""The arguments of operators that resample with FIR filters: their forms, checks and messages."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gankernels.ops import _check

Pair = int | Sequence[int]
"""One number for both axes, or ``[x, y]``."""


def pair(op: str, name: str, value: Pair) -> tuple[int, int]:
    """A factor as (x, y)."""
    both = (value, value) if type(value) is int else _whole_numbers(op, name, value, (2,))
    if both[0] < 1 or both[1] < 1:
        raise ValueError(f"{op}: {name} is {value}, expected 1 or more on each axis")
    return both


def padding(op: str, value: Pair) -> Sequence[int]:
    """A padding as (x0, x1, y0, y1)."""
    given = (value, value) if type(value) is int else _whole_numbers(op, "padding", value, (2, 4))
    return given if len(given) == 4 else (given[0], given[0], given[1], given[1])


def _whole_numbers(op: str, name: str, value: Any, lengths: tuple[int, ...]) -> Sequence:
    """One number for both axes, or as many as one of `lengths`."""
    numbers = value if isinstance(value, list | tuple) else (value, value)
    whole = all(type(v) is int or (isinstance(v, Integral | torch.SymInt) and type(v) is not bool) for v in numbers)
    if not whole or len(numbers) not in lengths:
        forms = "n, [x, y] or [x0, x1, y0, y1]" if 4 in lengths else "n or [x, y]"
        raise ValueError(f"{op}: {name} is {value!r}, expected whole numbers as {forms}")
    return numbers


def taps(f: Tensor | None) -> tuple[int, int]:
    """(KH, KW) of a filter."""
    if f is None:
        return 1, 1
    return f.shape[0], f.shape[-1]


def check_image(op: str, x: Tensor) -> None:
    _check.floating(op, "x", x)
    if x.ndim != 4 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{op}: x has shape {list(x.shape)}, expected [N, C, H, W] with H and W at least 1")


def checked_filter(op: str, name: str, x: Tensor, f: Tensor | None) -> Tensor:
    """The filter as float32 or the dtype of `x`, after the autocast rule; one tap of 1 for None."""
    if f is None:
        return x.new_ones((1, 1), dtype=torch.float32)
    _check.floating(op, name, f)
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise ValueError(f"{op}: {name} has shape {list(f.shape)}, expected [K] or [KH, KW], not empty")
    if f.dtype not in (x.dtype, torch.float32) and torch.is_autocast_enabled(x.device.type):
        f = f.float()
    if f.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"{op}: {name} has dtype {f.dtype}, expected float32 or that of x, {x.dtype}; convert it")
    if f.device != x.device:
        raise ValueError(f"{op}: {name} is on {f.device}, expected the device of x, {x.device}; move it")
    return f
