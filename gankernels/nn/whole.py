"""One forward pass as a share of a whole batch: the samples' keys, and what layers need that couple samples.

Training runs every pass inside `running`. Fresh numbers then follow from each sample's key alone, and what is a
statistic of the batch is that of the whole one, however many processes and passes the batch is split into. Outside it
layers draw from PyTorch's generators and a batch is what they are given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels.nn._augment_draws import keyed_normal, keyed_uniform


@dataclass(frozen=True)
class Whole:
    """The batch that a pass runs a share of.

    Attributes:
        size: its samples.
        places: [n] int64, where those of the pass lie in it.
        rounds: passes that every process makes, one after the other, for one batch.
        group: the pass holds whole minibatch deviation groups of so many samples; 0 for none.
        total: sums a tensor over the processes, each of which must call it; differentiable to any order.
        ws: [size, num_ws, w_dim], the intermediate latents of all of it, or None.
    """

    size: int
    places: Tensor
    rounds: int
    group: int
    total: Callable[[Tensor], Tensor]
    ws: Tensor | None = None

    def together(self, what: str) -> None:
        """Raise ValueError where the batch is never in memory as a whole, which `what` needs."""
        if self.rounds > 1:
            raise ValueError(
                f"{what} depends on all samples of a batch, which is run in {self.rounds} rounds; take accumulate 1, "
                "and more processes or a smaller batch"
            )

    def mean(self, t: Tensor, what: str) -> Tensor:
        """The mean of what is a mean over the pass's samples, over the whole batch."""
        self.together(what)
        return self.total(t) * (len(self.places) / self.size)

    def gather(self, x: Tensor, what: str) -> Tensor:
        """[n, ...] of each process -> [size, ...] on all, in the order of the whole batch."""
        self.together(what)
        return self.total(x.new_zeros(self.size, *x.shape[1:]).index_copy(0, self.places, x))


@dataclass
class _Pass:
    keys: Tensor
    whole: Whole | None
    stream: int = 0


_pass: _Pass | None = None  # a plain global, for torch.compile guards on no thread-local


@contextlib.contextmanager
def running(keys: Tensor, whole: Whole | None = None) -> Iterator[None]:
    """A forward pass of samples whose draws follow from `keys` [n] int64 (see `sample_keys`), a share of `whole`.

    One pass at a time in a program: threads that run others would draw from it. Passes may nest.
    """
    global _pass
    before, _pass = _pass, _Pass(keys, whole)
    try:
        yield
    finally:
        _pass = before


def current() -> Whole | None:
    """The batch that the pass in hand is a share of; None where it is the batch, and outside of `running`."""
    return None if _pass is None else _pass.whole


def uniform(n: int, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n, *shape] fresh numbers between 0 and 1, those of sample i by its key; `torch.rand` outside of a pass."""
    if _pass is None:
        return torch.rand(n, *shape, dtype=dtype, device=device)
    return _keyed(keyed_uniform, n, *shape, dtype=dtype, device=device)


def normal(n: int, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n, *shape] fresh N(0, 1) numbers, as `uniform`."""
    if _pass is None:
        return torch.randn(n, *shape, dtype=dtype, device=device)
    return _keyed(keyed_normal, n, *shape, dtype=dtype, device=device)


def _keyed(draw: Callable[..., Tensor], n: int, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if len(_pass.keys) != n:
        raise ValueError(f"running: got keys of {len(_pass.keys)} samples, and a layer draws for {n}; give it {n}")
    wide = torch.promote_types(dtype, torch.float32)
    # The pipe of augmentations takes streams 0 and 1 of its keys.
    drawn = draw(_pass.keys.to(device), torch.Size(shape).numel(), 2 + _pass.stream, wide)
    _pass.stream += 1
    return drawn.view(n, *shape).to(dtype)


def dropout_mask(x: Tensor, p: float) -> Tensor:
    """What dropout multiplies x by: 0 with probability p, else 1 / (1 - p)."""
    if _pass is None or p == 1:
        return F.dropout(torch.ones_like(x), p)
    kept = uniform(*x.shape, dtype=torch.float32, device=x.device) >= p
    return kept.to(x.dtype) / (1 - p)


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, whose mask is keyed by sample inside of `running`."""

    def forward(self, x: Tensor) -> Tensor:
        if _pass is None or not self.training or self.p == 0:
            return super().forward(x)
        return x * dropout_mask(x, self.p)
