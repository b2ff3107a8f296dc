"""What the networks are told beside a latent: the class of an image, or InfoGAN's code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gankernels.data import ImageData
from gankernels.data.dataset import keyed_generator
from gankernels.errors import ConfigError
from gankernels.losses import acgan, infogan_categorical, infogan_gaussian
from gankernels.training.config import TrainConfig


def class_count(config: TrainConfig, data: ImageData) -> int:
    """Classes that the networks of a run are told, 0 for none.

    Raises:
        ConfigError: the run is conditional and the data has no classes, or one.
    """
    if not config.classes:
        return 0
    if len(data.class_names) < 2:
        what = "conditional is True" if config.conditional else f"objective is {config.objective}"
        has = f"{len(data.class_names)} class" if data.class_names else "no labels"
        raise ConfigError(
            f"{what}, and {data.name} has {has}; put the images in two folders or more, one a class, or train without"
        )
    return len(data.class_names)


class Conditions:
    """Conditions [N, dim] of samples: one-hot classes, or a one-hot category and continuous codes; None for none."""

    def __init__(self, config: TrainConfig, data: ImageData, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.count = class_count(config, data)
        self.labels = data.labels if self.count else None

    def of_images(self, indices: Tensor, turn: int) -> Tensor | None:
        """Of a batch: the classes of its real images, which its generated ones take too; or fresh codes."""
        if self.labels is not None:
            return self._one_hot(self.labels[indices], self.count)
        return self.drawn("codes", len(indices), turn)

    def drawn(self, purpose: str, count: int, step: int = 0) -> Tensor | None:
        """[count, dim] known from (purpose, seed, step): classes as frequent as the data's, or codes."""
        draws = keyed_generator(purpose, self.config.seed, step)
        if self.labels is not None:
            chosen = torch.randint(len(self.labels), (count,), generator=draws)
            return self._one_hot(self.labels[chosen], self.count)
        if self.config.objective != "infogan":
            return None
        parts = [torch.rand(count, self.config.codes, generator=draws) * 2 - 1]
        if self.config.categories:
            category = torch.randint(self.config.categories, (count,), generator=draws)
            parts.insert(0, F.one_hot(category, self.config.categories).to(torch.float32))
        return torch.cat(parts, 1).to(self.device, self.dtype)

    def in_turn(self, count: int) -> Tensor | None:
        """[count, dim] for pictures: the classes, or infogan's categories, one after the other."""
        if self.labels is not None:
            return self._one_hot(torch.arange(count) % self.count, self.count)
        c = self.drawn("fixed codes", count)
        if c is not None and self.config.categories:
            c[:, : self.config.categories] = self._one_hot(
                torch.arange(count) % self.config.categories, self.config.categories
            )
        return c

    def _one_hot(self, numbers: Tensor, count: int) -> Tensor:
        return F.one_hot(numbers, count).to(self.device, self.dtype)


def head_loss(config: TrainConfig, outputs: Tensor, c: Tensor) -> Tensor:
    """What both players add for the second head's outputs on images of conditions c: ACGAN's or InfoGAN's term."""
    if config.objective == "acgan":
        return acgan(outputs, c) * config.head_weight
    k = config.categories
    means, log_variances = outputs[:, k:].chunk(2, 1)
    loss = 0.0
    if k:
        loss = infogan_categorical(outputs[:, :k], c[:, :k], config.head_weight)
    if config.codes:
        loss = loss + infogan_gaussian(means, log_variances, c[:, k:], config.head_weight)
    return loss
