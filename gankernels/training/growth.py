"""When a growing network grows: its schedule, counted in images."""

from gankernels.training.config import TrainConfig


def stage(config: TrainConfig, images: int) -> tuple[int | None, float]:
    """(resolution, alpha) after `images` real images; (None, 1), all of the network, where it does not grow.

    config.stable_images at grow_from, then for each doubling fade_images with alpha rising from 0 to 1 and
    stable_images at 1; the last resolution stays.
    """
    if config.grow_from is None:
        return None, 1.0
    resolution, left = config.grow_from, images - config.stable_images
    while left >= 0 and resolution < config.resolution:
        resolution *= 2
        if left < config.fade_images:
            return resolution, left / config.fade_images
        left -= config.fade_images + config.stable_images
    return resolution, 1.0
