"""How far a checkpoint's images are from real ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gankernels import data
from gankernels.data.dataset import keyed_generator
from gankernels.errors import ConfigError
from gankernels.metrics import efficientnet_lite0, kid
from gankernels.training.generate import latents, render
from gankernels.training.networks import load_generator


def kid_of_checkpoint(checkpoint: Path, name: str | None, count: int, seed: int, device: torch.device) -> float:
    """KID on EfficientNet-Lite0 features of `count` generated images to as many real ones.

    Args:
        checkpoint: a checkpoint or a run's folder.
        name: the real images, as `gankernels.data.load` takes them; None for those of the run.
        count: of either kind; as many real images as there are where there are fewer.
        seed: of latents and of the choice of real images.
        device: where networks run.

    Raises:
        InputError: checkpoint, data or an optional package are missing or do not fit.
    """
    features = efficientnet_lite0(device)
    generator, config = load_generator(checkpoint, device)
    fake = render(generator, latents(generator, seed, range(count)))
    real = data.load(name or config.data, resolution=generator.resolution, channels=generator.channels)
    chosen = torch.randperm(len(real), generator=keyed_generator("evaluate", seed))[:count]
    return kid(features(_opaque(real.batch(chosen))), features(_opaque(fake)))


def _opaque(images: Tensor) -> Tensor:
    """Images in [-1, 1] without their alpha channel, laid over white."""
    if images.shape[1] in (1, 3):
        return images
    if images.shape[1] not in (2, 4):
        raise ConfigError(f"images have {images.shape[1]} channels; the features are those of grey or RGB images")
    colour, alpha = images[:, :-1], (images[:, -1:] + 1) / 2
    return colour * alpha + (1 - alpha)
