"""What the battery's tests are made of: calls, cotangents, layouts, the tolerance rule, a record of the calls made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Sample:
    """One call. `tensors` are differentiable float64 CPU tensors; `fixed` ones are passed on but need no gradient."""

    tensors: dict[str, Tensor]
    kwargs: dict = field(default_factory=dict)
    fixed: dict[str, Tensor] = field(default_factory=dict)
    keep: tuple[str, ...] = ()  # names whose dtype stays as it is

    def to(self, device, dtype) -> Sample:
        def move(name, t):
            if not t.is_floating_point() or name in self.keep:
                return t.to(device)
            return t.to(device, dtype, memory_format=torch.preserve_format)

        return Sample(
            {k: move(k, t.detach()).requires_grad_() for k, t in self.tensors.items()},
            self.kwargs,
            {k: move(k, t.detach()) for k, t in self.fixed.items()},
            self.keep,
        )

    def fresh(self) -> Sample:
        """A copy whose tensors share nothing with these, strides kept."""

        def copy(t):
            return t.detach().clone(memory_format=torch.preserve_format)

        tensors = {k: copy(t).requires_grad_() for k, t in self.tensors.items()}
        return Sample(tensors, self.kwargs, {k: copy(t) for k, t in self.fixed.items()}, self.keep)


def exact_in_any_dtype(shape, seed: int) -> Tensor:
    """Random float64 numbers that float16 and bfloat16 hold exactly: the truth is of the same cotangent."""
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (draws * 32).round() / 32


def layouts(t: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The values of `t` in other strides."""
    if t.ndim == 4:
        yield "channels_last", t.contiguous(memory_format=torch.channels_last)
        yield "transposed", t.transpose(2, 3).contiguous().transpose(2, 3)
    if t.ndim >= 1:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), float("nan"), dtype=t.dtype, device=t.device)
        wide[..., 1::2] = t
        yield "sliced", wide[..., 1::2]
    flat = torch.full((t.numel() + 3,), float("nan"), dtype=t.dtype, device=t.device)
    flat[3:] = t.reshape(-1)
    yield "offset", flat[3:].view(t.shape)


def assert_as_true_as_reference(ours: Tensor, theirs: Tensor, truth: Tensor, what: str = "result") -> None:
    """max|ours - truth| <= 2 max|reference - truth| + eps max|truth|, truth in float64; NaN fails.

    A float64 result has a truth no better than itself: there it is 64 eps max|truth|, room for another order of sums.
    """
    assert ours.shape == truth.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(truth.shape)}"
    assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype}, expected {theirs.dtype}"
    if not truth.numel():
        return
    truth = truth.detach().double().cpu()
    error = (ours.detach().double().cpu() - truth).abs().max().item()
    allowed = 2 * (theirs.detach().double().cpu() - truth).abs().max().item()
    slack = 64 if ours.dtype == torch.float64 else 1
    allowed += slack * torch.finfo(ours.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{what}: off by {error:.3e}, allowed {allowed:.3e}"


class Calls(TorchDispatchMode):
    """Records the operators that run: (name, {argument: value})."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = [a.name for a in func._schema.arguments]
        self.seen.append((func.name(), {**dict(zip(names, args, strict=False)), **(kwargs or {})}))
        return func(*args, **(kwargs or {}))

    def names(self) -> set[str]:
        return {name.split(".")[0] for name, _ in self.seen}
