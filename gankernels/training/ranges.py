"""What each field of a configuration may be, by itself; combinations.py says what goes with what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gankernels.errors import ConfigError
from gankernels.losses import OBJECTIVES
from gankernels.nn.augment import PRESETS as AUGMENTATIONS

if TYPE_CHECKING:
    from gankernels.training.config import TrainConfig


def _check(config: TrainConfig, name: str, ok: bool, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {expected}, got {getattr(config, name)!r}")


def check_ranges(config: TrainConfig) -> None:
    """Raise ConfigError that names the first field out of its range."""
    for name in ("resolution", "images", "batch", "d_steps", "sample_every", "checkpoint_every", "log_every"):
        _check(config, name, getattr(config, name) >= 1, "at least 1")
    for name in (
        *("r1_every", "path_length_every", "augment_images", "augment_every", "fade_images", "stable_images"),
        *("accumulate", "half_resolutions", "blur_images", "instance_noise_images"),
    ):
        _check(config, name, getattr(config, name) >= 1, "at least 1")
    for name in (
        *("r1", "r2", "path_length", "drift", "blur", "head_weight", "margin", "pull_away", "balance_rate", "roth"),
        *("consensus", "instance_noise", "orthogonal", "categories", "codes"),
    ):
        _check(config, name, 0 <= getattr(config, name) < float("inf"), "0 or more")
    _check(config, "penalty", config.penalty is None or 0 <= config.penalty < float("inf"), "0 or more")
    _check(config, "balance", 0 < config.balance <= 1, "over 0, to 1")
    _check(config, "real_label", 0.5 < config.real_label <= 1, "over 0.5, to 1")
    _check(config, "dropout", config.dropout is None or 0 <= config.dropout < 1, "0 to 1, without 1")
    augmentations = ", ".join(AUGMENTATIONS)
    _check(config, "augment", config.augment is None or config.augment in AUGMENTATIONS, f"one of {augmentations}")
    _check(config, "augment_target", -1 <= config.augment_target <= 1, "-1 to 1")
    _check(config, "mixing", 0 <= config.mixing <= 1, "0 to 1")
    _check(config, "d_lr", config.d_lr is None or 0 < config.d_lr < float("inf"), "over 0")
    for name in ("channels", "width", "z_dim", "max_width", "w_dim", "mapping_layers"):
        _check(config, name, getattr(config, name) is None or getattr(config, name) >= 1, "at least 1")
    _check(config, "metrics_every", config.metrics_every is None or config.metrics_every >= 1, "at least 1")
    _check(config, "metrics_count", config.metrics_count >= 2, "at least 2")
    for name in ("ema", "ema_rampup", "keep", "seed"):
        _check(config, name, getattr(config, name) >= 0, "at least 0")
    _check(config, "mbstd_group", config.mbstd_group is None or config.mbstd_group >= 0, "at least 0")
    _check(config, "process_timeout", 0 < config.process_timeout < float("inf"), "over 0")
    _check(config, "lr", 0 < config.lr < float("inf"), "over 0")
    _check(config, "betas", len(config.betas) == 2 and all(0 <= b < 1 for b in config.betas), "two numbers in [0, 1)")
    _check(config, "clip", config.clip is None or config.clip > 0, "over 0")
    _check(config, "minutes", config.minutes is None or config.minutes > 0, "over 0")
    _check(config, "objective", config.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}")
