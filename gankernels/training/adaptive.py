"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gankernels.nn import AugmentPipe, sample_keys
from gankernels.training.config import TrainConfig

REAL, FAKE, GENERATOR, R1 = range(4)
"""The calls of the discriminator in one of its turns, each with draws of its own."""


class AdaptiveAugment:
    """What stands between images and the discriminator, its probability driven by how sure that is of real images.

    r_t, the mean sign of the discriminator's output for augmented real images, tells overfitting. Every
    `config.augment_every` turns p moves by the turns' images / `config.augment_images`, up where r_t is over
    `config.augment_target`, else down; it stays within 0 and 1. With config.augment None images pass as they are.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.pipe = None if config.augment is None else AugmentPipe(config=config.augment).to(device)
        self.signs = torch.zeros(2, dtype=torch.float64, device=device)  # their sum, and how many

    def before(self, discriminator: nn.Module, turn: int, call: int) -> Callable[[Tensor], Tensor]:
        """The discriminator, of images that are augmented first; draws depend on (seed, turn, call) alone."""
        if self.pipe is None:
            return discriminator

        def judge(images: Tensor) -> Tensor:
            index = torch.arange(len(images), device=images.device)
            return discriminator(self.pipe(images, keys=sample_keys(4 * turn + call, index, self.config.seed)))

        return judge

    @torch.no_grad()
    def observe(self, real_logits: Tensor, turn: int) -> None:
        """Count the signs of a turn's outputs for real images, and move p where it is time."""
        if self.pipe is None:
            return
        self.signs += torch.stack([real_logits.sign().sum(), real_logits.new_tensor(real_logits.numel())])
        if (turn + 1) % self.config.augment_every == 0:
            total, count = self.signs.tolist()
            step = count / self.config.augment_images
            self.pipe.p.add_(step if total / count > self.config.augment_target else -step).clamp_(0, 1)
            self.signs.zero_()

    def state(self) -> dict[str, Tensor]:
        return {} if self.pipe is None else {"p": self.pipe.p, "signs": self.signs}

    def load(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError for a state that lacks something."""
        if self.pipe is not None:
            self.pipe.p.copy_(state["p"])
            self.signs.copy_(state["signs"])
