"""The blur of all that the discriminator sees, which fades out early in training (StyleGAN3-R's)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gankernels import ops
from gankernels.losses import annealed
from gankernels.training.config import TrainConfig


class Blur:
    """A Gaussian whose deviation falls linearly from config.blur pixels to 0 over config.blur_images real images.

    It keeps a fast discriminator from the finest details while the generator still learns where things are; beyond the
    image lies 0. Karras et al. 2021, arXiv 2106.12423, appendix.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.sigma = config, 0.0

    def at(self, images: int) -> None:
        """From now on blur as after so many images."""
        self.sigma = annealed(self.config.blur, images, self.config.blur_images)

    def __call__(self, images: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        if self.sigma == 0:
            return images
        reach = math.ceil(3 * self.sigma)
        steps = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
        taps = (-0.5 * (steps / self.sigma).square()).exp()
        return ops.filter2d(images, (taps / taps.sum()).to(images.dtype))
