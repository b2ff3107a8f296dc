"""Who runs which samples of a batch: processes share it out, and each may run its share in rounds (accumulation)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gankernels.errors import ConfigError
from gankernels.nn import BatchNormAct2d, MinibatchStdDev, SpectralNorm, Whole, sample_keys
from gankernels.training.config import TrainConfig
from gankernels.training.processes import Processes


@dataclass(frozen=True)
class Share:
    """Samples of a batch that run in one pass.

    Attributes:
        size: samples of the batch.
        places: [n] int64, where these lie in it.
        whole: what layers need of the batch, or None where this is all of it.
    """

    size: int
    places: Tensor
    whole: Whole | None

    @property
    def weight(self) -> float:
        """What a mean over these samples counts in the mean over the batch."""
        return len(self.places) / self.size

    def of(self, everything: Tensor) -> Tensor:
        """These samples of a tensor [size, ...]."""
        return everything if self.whole is None else everything[self.places.to(everything.device)]

    def keys(self, purpose: str, seed: int, step: int) -> Tensor:
        """[n] keys of these samples' draws, which follow from (purpose, seed, step, place in the batch) alone."""
        own = hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=8).digest()
        return sample_keys(step, self.places, int.from_bytes(own, "little") >> 1)

    def within(self, ws: Tensor | None) -> Whole | None:
        """`whole`, with the intermediate latents of the batch."""
        return None if self.whole is None else replace(self.whole, ws=ws)


class Shares:
    """The shares of this process: `rounds`, one after the other, and `local`, all of them in one.

    Raises:
        ConfigError: the batch cannot be shared out so, or what couples its samples cannot be; says what to do.
    """

    def __init__(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module, processes: Processes, device
    ) -> None:
        self.processes, self.device, self.count = processes, device, config.accumulate
        parts = self.count * processes.world
        if config.batch % parts:
            raise ConfigError(f"batch is {config.batch}, and {_parts(config, processes)}; take a multiple of {parts}")
        self.group = _group(config, discriminator, parts)
        if parts > 1:
            _check_coupling(config, generator, discriminator, processes)
        self.rounds, self.local = self.split(config.batch, self.group)

    def split(self, size: int, group: int = 0) -> tuple[list[Share], Share]:
        """The rounds of this process and all of them in one, of a batch of `size` whose `group`s stay in one pass."""
        world, count = self.processes.world, self.count
        if world * count == 1:
            only = Share(size, torch.arange(size, device=self.device), None)
            return [only], only
        # Sample n is number n // (size / group) of its group: a share of the columns is whole groups.
        columns = torch.arange(size, device=self.device).view(group or 1, -1)
        mine = columns.tensor_split(world, 1)[self.processes.rank]
        places = [part.flatten() for part in mine.tensor_split(count, 1) if part.numel()]
        total = self.processes.total
        rounds = [Share(size, part, Whole(size, part, self.count, group, total)) for part in places]
        local = torch.cat(places)
        return rounds, Share(size, local, Whole(size, local, 1, group, total))


def _parts(config: TrainConfig, processes: Processes) -> str:
    return f"{processes.world} processes of accumulate {config.accumulate} share it"


def _group(config: TrainConfig, discriminator: nn.Module, parts: int) -> int:
    """Samples of the discriminator's deviation groups where each part holds whole ones, else 0."""
    sizes = {m.group_size or config.batch for m in discriminator.modules() if isinstance(m, MinibatchStdDev)}
    if len(sizes) != 1 or parts == 1:
        return 0
    group = min(*sizes, config.batch)
    return 0 if config.batch // parts % group else group


def _check_coupling(config: TrainConfig, generator: nn.Module, discriminator: nn.Module, processes: Processes) -> None:
    for name, asked in (("consensus", config.consensus), ("pull_away", config.heads and config.objective == "ebgan")):
        if asked:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, which is no mean over samples, and {_parts(config, processes)}; "
                f"take one process of accumulate 1, or {name} 0"
            )
    modules = [*generator.modules(), *discriminator.modules()]
    has, rounds = f"model {config.model} has", config.accumulate > 1
    for module in modules:
        kind = type(module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if rounds:
                raise ConfigError(
                    f"accumulate is {config.accumulate}, and {has} batch normalisation, whose statistics are those of "
                    "all samples at once; take accumulate 1 and more processes, or a smaller batch"
                )
            if kind is not BatchNormAct2d:
                raise ConfigError(
                    f"there are {processes.world} processes, and {has} {kind.__name__}, whose statistics are not taken "
                    "over processes; use gankernels.nn.BatchNormAct2d, or one process"
                )
        if rounds and isinstance(module, SpectralNorm):
            raise ConfigError(
                f"accumulate is {config.accumulate}, and {has} spectral normalisation, whose iteration moves on "
                "in every pass; take accumulate 1 and more processes"
            )
    parts = processes.world * config.accumulate
    deviations = any(isinstance(m, MinibatchStdDev) for m in modules)
    if rounds and deviations and not _group(config, discriminator, parts):
        raise ConfigError(
            f"accumulate is {config.accumulate}, and {has} the minibatch deviation of groups of samples that lie in "
            f"several of the {parts} parts of the batch; take a batch of {parts} times whole groups, or a smaller "
            "mbstd_group"
        )
    if rounds and config.objective == "dragan":
        raise ConfigError(
            f"accumulate is {config.accumulate}, and dragan's noise has the deviation of all samples at once; take "
            "accumulate 1 and more processes, or wgan-gp"
        )
    if config.path_length:
        if config.model == "stylegan3":
            raise ConfigError(
                f"path_length is {config.path_length}, and stylegan3 normalises styles over the batch, which "
                f"{_parts(config, processes)}; take path_length 0 as its paper does, or one process of accumulate 1"
            )
        if config.batch // 2 < processes.world:
            raise ConfigError(
                f"batch is {config.batch}, of which path_length takes half, and there are {processes.world} processes; "
                f"take a batch of {2 * processes.world} at least"
            )
