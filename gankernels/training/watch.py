"""A metric at intervals of a run, and the checkpoint of its best value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gankernels import metrics
from gankernels.data import ImageData
from gankernels.training.config import TrainConfig
from gankernels.training.evaluate import check_real, fake_features, real_features
from gankernels.training.trainer import Trainer

BEST = "best.safetensors"
"""Beside the checkpoints by step, which are tidied up; this one stays until a better one comes."""


class Watch:
    """Computes config.metric of the averaged generator, always on the same latents and real images.

    Args:
        config: the run's.
        images: its data.
        history: the run's earlier lines of metrics.jsonl, which know the best value so far.

    Raises:
        MissingDependency: the packages of the extra "metrics" are not installed.
        ConfigError: there are too few images.
    """

    def __init__(self, config: TrainConfig, images: ImageData, history: list[dict[str, Any]]) -> None:
        self.metric, self.count, self.seed = config.metric, config.metrics_count, config.seed
        self.labels = images.labels if config.classes else None
        check_real(images, min(self.count, len(images)), [self.metric])
        self.extract = metrics.lite0_extractor(config.torch_device())
        _, self.real = real_features(self.extract, images, self.count, self.seed)
        known = [line[self.metric] for line in history if line.get(self.metric) is not None]
        self.best = min(known, default=float("inf"))

    def forget(self) -> None:
        """Take the next value for the best: the checkpoint of an earlier one is not there."""
        self.best = float("inf")

    def measure(self, trainer: Trainer) -> float:
        """The value at the trainer's step; nothing that training draws from is touched."""
        trainer.samples(1)  # brings the average to the run's stage of growth
        features, *_ = fake_features(self.extract, trainer.ema.module, self.count, self.seed, labels=self.labels)
        return {"kid": metrics.kid, "fid": metrics.fid}[self.metric](self.real, features)

    def better(self, value: float) -> bool:
        """Whether it is the lowest so far, which it then becomes."""
        found = value < self.best
        self.best = min(self.best, value)
        return found


def best_path(run: Path) -> Path:
    return run / "checkpoints" / BEST
