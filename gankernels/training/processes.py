"""The processes of a run: what they add up, how they wait for the first, how they learn that another is gone.

`torchrun` starts one process a device. Every process holds the networks, the data and the same state; of each batch it
runs its own samples. Gradients are summed here, after backward and in one flat tensor, not by DistributedDataParallel:
its hooks count one forward pass to a backward and know nothing of gradients of gradients, while here a network runs two
to four times in a step, penalties differentiate twice, lazy regularisers and growth change which parameters take part.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from gankernels.errors import ConfigError, InputError, ProcessLost

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_runs = itertools.count()  # of this program: the store keeps what earlier ones wrote
_START = timedelta(minutes=30)  # reading data, which may differ from machine to machine


def environment() -> tuple[int, int]:
    """(number of this process, how many there are), as torchrun says; (0, 1) without it."""
    if not all(name in os.environ for name in _VARIABLES):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


class Processes:
    """One process alone; `joined` gives one of many.

    Attributes:
        rank, world: the number of this process, and how many there are.
    """

    rank, world = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def total(self, t: Tensor) -> Tensor:
        """The sum of t over the processes, differentiable to any order; all must call it."""
        return t

    def add_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their sums over the processes."""

    def sums(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def any(self, flag: bool) -> bool:
        return flag

    def agree(self, error: InputError | None, fact: str = "") -> None:
        """Raise an InputError on every process if one has it, or where what they know of the run differs."""
        if error is not None:
            raise error

    def lead(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the first process, while the others wait as long as it takes; None in those."""
        return work()


class _Total(torch.autograd.Function):
    """A sum over processes. Each has its share of the loss, so the gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx, t, add_):
        ctx.add_ = add_
        summed = t.clone(memory_format=torch.contiguous_format)
        add_([summed])
        return summed

    @staticmethod
    def backward(ctx, g):
        return _Total.apply(g, ctx.add_), None


def _shared(error: InputError) -> InputError:
    error.shared = True
    return error


class _Many(Processes):
    def __init__(self, store: dist.Store, rank: int, world: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self._store = store
        self._led = 0

    def total(self, t: Tensor) -> Tensor:
        return _Total.apply(t, self.add_)

    @torch.no_grad()
    def add_(self, tensors: Sequence[Tensor]) -> None:
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in same])
            with self._watched():
                dist.all_reduce(flat)
            parts = flat.split([t.numel() for t in same])
            torch._foreach_copy_(same, [part.view(t.shape) for part, t in zip(parts, same, strict=True)])

    def sums(self, values: Sequence[float]) -> list[float]:
        t = torch.tensor(values, dtype=torch.float64)
        with self._watched():
            dist.all_reduce(t)
        return t.tolist()

    def any(self, flag: bool) -> bool:
        return self.sums([float(flag)])[0] > 0

    def agree(self, error: InputError | None, fact: str = "") -> None:
        self._store.set(f"start/{self.rank}", f"{fact}\n{error}" if error is not None else fact)
        keys = [f"start/{rank}" for rank in range(self.world)]
        with self._watched():
            self._store.wait(keys, _START)
            said = [self._store.get(key).decode() for key in keys]
        for rank, text in enumerate(said):
            if "\n" in text:
                raise _shared(error or ConfigError(f"process {rank}: {text.partition(chr(10))[2]}"))
        for rank, text in enumerate(said):
            if text != said[0]:
                raise _shared(
                    ConfigError(
                        f"process {rank} has another run or other data than process 0 ({text} and {said[0]}); "
                        "start all with the same arguments and files"
                    )
                )

    def lead(self, work: Callable[[], Any]) -> Any:
        self._led += 1
        key = f"led/{self._led}"
        if not self.first:
            self._follow(key)
            return None
        done = "failed"
        try:
            with self._beating(key):
                result = work()
            done = "done"
        finally:
            with self._watched():
                self._store.set(key, done)
        return result

    @contextlib.contextmanager
    def _beating(self, key: str) -> Iterator[None]:
        """Tell the others every few seconds that this process lives."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.timeout / 12):
                self._store.add(f"{key}/beats", 1)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _follow(self, key: str) -> None:
        beats, since = -1, time.monotonic()
        with self._watched():
            while not self._store.check([key]):
                time.sleep(0.02)
                now = self._store.add(f"{key}/beats", 0)
                if now != beats:
                    beats, since = now, time.monotonic()
                elif time.monotonic() - since > self.timeout / 3:
                    raise ProcessLost(
                        f"process 0, which alone writes files, has not stirred for {self.timeout / 3:g} s"
                    )
            if self._store.get(key) != b"done":
                raise ProcessLost("process 0 failed; what it wrote says why")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ProcessLost):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". This is typically")[0]
            raise ProcessLost(
                f"process {self.rank} of {self.world} lost another one, which ended or has not answered for "
                f"{self.timeout:g} s ({reason})"
            ) from error


@contextlib.contextmanager
def joined(device: str, timeout: float) -> Iterator[Processes]:
    """This process among those that torchrun started, or alone.

    Args:
        device: as configured. With several processes cuda is the one of the process's number on its machine.
        timeout: seconds that one waits for the others before it takes them for lost.

    Raises:
        ConfigError: the device cannot be shared out, or the others cannot be reached.
    """
    rank, world = environment()
    if world == 1:
        yield Processes()
        return
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if ":" in device:
        raise ConfigError(f"device is {device!r}, and there are {world} processes; take cuda, each gets one of its own")
    if on_cuda:
        local = int(os.environ.get("LOCAL_RANK", rank))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                f"take --nproc-per-node {max(torch.cuda.device_count(), 1)}"
            )
        torch.cuda.set_device(local)
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=_START))
        store = dist.PrefixStore(f"gankernels/{next(_runs)}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
            store=dist.PrefixStore("group", store), rank=rank, world_size=world, timeout=timedelta(seconds=timeout),
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"process {rank} of {world} cannot reach the others ({error}); start them by torchrun"
        ) from error
    try:
        yield _Many(store, rank, world, timeout)
    except ProcessLost:  # to take leave of who is gone would hang
        raise
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()
