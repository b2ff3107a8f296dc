"""The two networks of a configuration, and a generator out of a checkpoint."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankernels import models
from gankernels.errors import CheckpointError, ConfigError
from gankernels.losses import objective, orthogonal_
from gankernels.nn import MinibatchStdDev, SpectralNorm
from gankernels.nn.augment import PRESETS as AUGMENTATIONS
from gankernels.training.checkpoint import find, load, load_module
from gankernels.training.config import TrainConfig
from gankernels.training.growth import stage


def build(config: TrainConfig, channels: int, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator on the CPU, their initial weights drawn from config.seed alone.

    classes: of the data, which the networks are told; 0 unless config.classes.

    Raises:
        ConfigError: unknown model, or one that cannot have these options; the message is the model's own.
    """
    if config.model not in models.MODELS:
        raise ConfigError(f"unknown model {config.model!r}, expected one of {', '.join(models.MODELS)}")
    names = ("width", "max_width", "z_dim", "w_dim", "latent")
    options = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.mapping_layers is not None:
        options["g_mapping_kwargs"] = {"num_layers": config.mapping_layers}
    if config.mbstd_group is not None:
        options["d_mbstd_group_size"] = config.mbstd_group or None
    options |= _precision(config) | _equivariance(config) | _conditions(config, classes)
    if config.dropout is not None:
        options["d_dropout"] = config.dropout
    name = "dcgan-autoencoder" if config.model == "dcgan" and objective(config.objective).error else config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            networks = models.build(name, resolution=config.resolution, channels=channels, **options)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"model {config.model}: {error}") from error
        _check_fit(config, *networks)
        if config.objective == "infogan":
            networks[0].codes = config.codes
        if config.orthogonal_init:
            for network in networks:
                orthogonal_(network)
        if config.spectral_norm:
            networks = networks[0], SpectralDiscriminator(networks[1])
    return networks


class SpectralDiscriminator(SpectralNorm):
    """A discriminator whose weights are divided by their largest singular values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.config = {**module.config, "spectral_norm": True}


def _conditions(config: TrainConfig, classes: int) -> dict[str, Any]:
    """Constructor arguments of networks that take classes or codes, or tell them."""
    if config.objective == "infogan":
        options = {"d_heads": config.categories + 2 * config.codes, "d_head_width": 128}
        return {"g_c_dim": config.categories + config.codes, **options}
    if config.objective == "began":
        return {"d_power": 1}
    if not classes:
        return {}
    if config.model in ("progan", "stylegan"):
        return {"c_dim": classes, "d_conditioning": "acgan" if config.objective == "acgan" else "select"}
    return {"g_c_dim": classes, "d_heads" if config.objective == "acgan" else "d_c_dim": classes}


def _precision(config: TrainConfig) -> dict[str, Any]:
    known = "num_fp16_res" in inspect.signature(models.MODELS[config.model][0]).parameters
    if config.precision in ("float32", "float64"):
        return {"num_fp16_res": 0} if known else {}
    if not known:
        raise ConfigError(
            f"precision is {config.precision}, and model {config.model} has no 16-bit blocks; take float32"
        )
    devices = ("cuda", "cpu") if config.half_on_cpu else ("cuda",)
    return {"num_fp16_res": config.half_resolutions, "half_dtype": config.precision, "half_devices": devices}


def _equivariance(config: TrainConfig) -> dict[str, Any]:
    """StyleGAN3-R: 1x1 convolutions, radial filters, twice the channels; its discriminator is T's."""
    if config.equivariance == "t":
        return {}
    if config.model != "stylegan3":
        raise ConfigError(f"equivariance is 'r', and model {config.model} knows none; take stylegan3")
    base = {"g_channel_base": 65536} if config.width is None else {"g_width": 2 * config.width}
    most = {"g_channel_max": 1024} if config.max_width is None else {"g_max_width": 2 * config.max_width}
    return {"g_conv_kernel": 1, "g_use_radial_filters": True, **base, **most}


def _check_fit(config: TrainConfig, generator: nn.Module, discriminator: nn.Module) -> None:
    """Raise ConfigError where the configuration asks for what these networks have not."""
    sizes = getattr(generator, "sizes", None)
    if config.grow_from is not None and (sizes is None or config.grow_from not in sizes):
        has = "does not grow" if sizes is None else f"grows through {', '.join(map(str, sizes))}"
        raise ConfigError(f"grow_from is {config.grow_from}, and model {config.model} {has}")
    for name in ("path_length", "mixing"):
        if getattr(config, name) and not hasattr(generator, "mapping"):
            raise ConfigError(f"{name} is {getattr(config, name)}, and model {config.model} has no mapping network")
    if config.augment is not None:
        if config.grow_from is not None:
            raise ConfigError(f"augment is {config.augment}, and a network that grows cannot have it; leave one out")
        if AUGMENTATIONS[config.augment].any("color") and generator.channels not in (1, 3):
            raise ConfigError(
                f"augment is {config.augment}, whose colour transforms take 1 or 3 channels, not {generator.channels}; "
                "take bg"
            )
    for module in discriminator.modules():
        group = getattr(module, "group_size", None) if isinstance(module, MinibatchStdDev) else None
        if group is not None and config.batch % min(group, config.batch):
            raise ConfigError(
                f"batch is {config.batch}, and model {config.model} takes deviations over groups of {group}: "
                f"take a multiple of {group}"
            )


def read(path: Path, kind: str = "training") -> tuple[Path, dict[str, Any], TrainConfig]:
    """A checkpoint (or the newest of a run's folder): its path, its state and its configuration.

    Raises:
        CheckpointError: see `gankernels.training.checkpoint.load`; or its content is not that of a training run.
    """
    file = find(path)
    return _checked(file, load(file), kind)


def _checked(file: Path, state: dict[str, Any], kind: str = "training") -> tuple[Path, dict[str, Any], TrainConfig]:
    try:
        if state["kind"] != kind:
            raise CheckpointError(f"{file} is a checkpoint of kind {state['kind']!r}, and {kind!r} is needed")
        if type(state["step"]) is not int:
            raise TypeError(f"its step is a {type(state['step']).__name__}")
        return file, state, TrainConfig.from_json(state["config"])
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no complete checkpoint of a training run ({error})") from error


def load_networks(file: Path, state: dict[str, Any], config: TrainConfig) -> tuple[nn.Module, nn.Module]:
    """The networks of a checkpoint's configuration, checked against what the checkpoint was written by."""
    try:
        # A checkpoint without class names is of a version whose networks took no classes.
        generator, discriminator = build(config, state["channels"], len(state.get("class_names", ())))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}; it is incomplete, take another checkpoint") from error
    for module, name in ((generator, "generator"), (discriminator, "discriminator")):
        stored = state.get(f"{name}_config")
        if module.config != stored:
            raise CheckpointError(
                f"{file} was written by a {name} with {stored}, and {config.model} now builds "
                f"{module.config}; it belongs to another model or version"
            )
    return generator, discriminator


CONVERTED = "networks"
"""The kind of file that holds networks alone, as `gankernels convert` writes it."""


def _converted(file: Path, state: dict[str, Any], average: bool) -> nn.Module:
    which = "average" if average else "generator"
    try:
        if which not in state:
            raise CheckpointError(f"{file} holds no generator as trained, only its average; leave out --no-average")
        generator = models.MODELS[state["model"]][0](**state["generator_config"])
        load_module(generator, state[which], str(file))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is incomplete or damaged ({error}); convert it anew") from error
    return generator


def load_generator(path: Path, device: torch.device, *, average: bool = True) -> tuple[nn.Module, TrainConfig | None]:
    """The generator of a checkpoint or a run's folder, in eval mode: its moving average, or the weights as trained.

    Of what `gankernels convert` wrote, too: then there is no configuration of a run, and None in its place.

    Raises:
        CheckpointError: the file is missing, damaged or of another model.
    """
    file = find(path)
    state = load(file)
    if isinstance(state, dict) and state.get("kind") == CONVERTED:
        return _converted(file, state, average).eval().requires_grad_(False).to(device), None
    file, state, config = _checked(file, state)
    try:
        generator, _ = load_networks(file, state, config)
        load_module(generator, state["average" if average else "generator"], str(file))
        if config.grow_from is not None:
            generator.grow(*stage(config, state["step"] * config.images_per_step))
        generator.class_names = tuple(state["class_names"])
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error}; it is incomplete, take another checkpoint") from error
    return generator.eval().requires_grad_(False).to(device), config
