"""The two networks of a configuration, and a generator out of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankernels import models
from gankernels.errors import CheckpointError, ConfigError
from gankernels.training.checkpoint import find, load, load_module
from gankernels.training.config import TrainConfig


def build(config: TrainConfig, channels: int) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator on the CPU, their initial weights drawn from config.seed alone.

    Raises:
        ConfigError: unknown model, or one that cannot have these options; the message is the model's own.
    """
    options = {"width": config.width, "z_dim": config.z_dim, "latent": config.latent}
    options = {name: value for name, value in options.items() if value is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return models.build(config.model, resolution=config.resolution, channels=channels, **options)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model {config.model}: {error}") from error


def read(path: Path, kind: str = "training") -> tuple[Path, dict[str, Any], TrainConfig]:
    """A checkpoint (or the newest of a run's folder): its path, its state and its configuration.

    Raises:
        CheckpointError: see `gankernels.training.checkpoint.load`; or its content is not that of a training run.
    """
    file = find(path)
    state = load(file)
    try:
        if state["kind"] != kind:
            raise CheckpointError(f"{file} is a checkpoint of kind {state['kind']!r}, and {kind!r} is needed")
        return file, state, TrainConfig.from_json(state["config"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no complete checkpoint of a training run ({error})") from error


def load_networks(file: Path, state: dict[str, Any], config: TrainConfig) -> tuple[nn.Module, nn.Module]:
    """The networks of a checkpoint's configuration, checked against what the checkpoint was written by."""
    try:
        generator, discriminator = build(config, state["channels"])
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    for module, name in ((generator, "generator"), (discriminator, "discriminator")):
        if module.config != state[f"{name}_config"]:
            raise CheckpointError(
                f"{file} was written by a {name} with {state[f'{name}_config']}, and {config.model} now builds "
                f"{module.config}; it belongs to another model or version"
            )
    return generator, discriminator


def load_generator(path: Path, device: torch.device, *, average: bool = True) -> tuple[nn.Module, TrainConfig]:
    """The generator of a checkpoint or a run's folder, in eval mode: its moving average, or the weights as trained.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
    """
    file, state, config = read(path)
    try:
        generator, _ = load_networks(file, state, config)
        load_module(generator, state["average" if average else "generator"], str(file))
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}; it is incomplete, take another checkpoint") from error
    return generator.eval().requires_grad_(False).to(device), config
