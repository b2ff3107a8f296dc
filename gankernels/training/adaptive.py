"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676)."""

from __future__ import annotations

import torch
from torch import Tensor

from gankernels.nn import AugmentPipe
from gankernels.training.config import TrainConfig
from gankernels.training.processes import Processes


class AdaptiveAugment:
    """What stands between images and the discriminator, its probability driven by how sure that is of real images.

    r_t, the mean sign of the discriminator's output for augmented real images, tells overfitting. Every
    `config.augment_every` turns p moves by the turns' images / `config.augment_images`, up where r_t is over
    `config.augment_target`, else down; it stays within 0 and 1. With config.augment None images pass as they are.
    """

    def __init__(self, config: TrainConfig, device: torch.device, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.pipe = None if config.augment is None else AugmentPipe(config=config.augment).to(device)
        self.signs = torch.zeros(2, dtype=torch.float64, device=device)  # their sum, and how many, of all processes

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """[N, C, H, W], augmented; draws follow from the keys [N] alone."""
        return images if self.pipe is None else self.pipe(images, keys=keys)

    @torch.no_grad()
    def observe(self, real_logits: Tensor, turn: int) -> None:
        """Count the signs of a turn's outputs for this process's real images, and move p where it is time."""
        if self.pipe is None:
            return
        signs = torch.stack([real_logits.sign().sum(), real_logits.new_tensor(real_logits.numel())])
        self.signs += self.processes.total(signs.to(self.signs.dtype))
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
