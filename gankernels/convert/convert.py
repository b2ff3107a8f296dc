"""A file of published networks into one of ours, every number checked on the way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gankernels import models
from gankernels._saved import read_file
from gankernels._saved_data import Strided, check_distinct
from gankernels.convert import ports, published
from gankernels.data.dataset import keyed_generator
from gankernels.errors import CheckpointError, ConfigError, UnsafePickle
from gankernels.training.checkpoint import SUFFIX, load_module, save

_FACTORIES = {torch.randn, torch.rand, torch.zeros, torch.ones, torch.empty, torch.full}
_DRAWS = 4096


class _Budget(TorchFunctionMode):
    """Refuses to make more numbers than `numbers`: a file's settings must not ask for networks it lacks."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.left = numbers

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _FACTORIES:
            self.left -= function(*args, **{**kwargs, "device": "meta"}).numel()
            if self.left < 0:
                raise CheckpointError("its settings ask for a network larger than the tensors in it")
        return function(*args, **kwargs)


def convert(source: Path, out: Path) -> list[str]:
    """Read a published StyleGAN2 or StyleGAN3 pickle, or the state dicts of a StyleGAN2 port, and write our file.

    Args:
        source: a pickle with G_ema (and G, D), or what torch.save wrote of {"g_ema": ...} (and "g", "d").
        out: the file to write, safetensors with its settings as JSON, which `gankernels generate` reads.

    Returns: sentences about what was found.
    Raises: UnsafePickle for a pickle that asks for more than data; CheckpointError for one that is damaged, or holds
        networks that ours cannot be, by the first argument or tensor that differs; ConfigError for another `out`.
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"{out} is to be a safetensors file; name it *{SUFFIX}")
    if out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(f"{out} is the file to read, which stays; name another to write")
    try:
        content = read_file(source, published.PUBLISHED)
    except UnsafePickle as error:
        if "dnnlib.tflib" in str(error):
            raise CheckpointError(
                f"{source} is a pickle of TensorFlow's networks, which are not read; take its PyTorch version"
            ) from error
        raise
    except CheckpointError:
        raise
    except Exception as error:  # a file can be wrong in ways that nobody has thought of; the cause stays attached
        raise CheckpointError(f"{source} cannot be read ({type(error).__name__}); it is damaged") from error
    try:
        port = ports.is_port(content)
        family, found = (ports if port else published).networks(content)
        state, notes = _checked(family, found, port)
    except CheckpointError as error:
        raise type(error)(f"{source}: {error}") from error
    except Exception as error:  # as above
        raise CheckpointError(f"{source} holds no networks that can be read ({type(error).__name__})") from error
    save(out, {"kind": "networks", "model": family, **state})
    return notes


def _checked(family: str, found: dict[str, Any], port: bool) -> tuple[dict[str, Any], list[str]]:
    """The state to save, of networks that were built and took the tensors; and notes."""
    state: dict[str, Any] = {}
    notes = []
    check_distinct(v for _, tensors in found.values() for v in tensors.values() if isinstance(v, Strided))
    for name, (config, tensors) in found.items():
        network = build(models.MODELS[family][name == "discriminator"], config, tensors)
        numbers = {k: v.tensor() if isinstance(v, Strided) else v for k, v in tensors.items()}
        if port:
            notes += _complete(network, numbers, name)
        load_module(network, numbers, name)
        config_name = f"{'discriminator' if name == 'discriminator' else 'generator'}_config"
        if state.setdefault(config_name, network.config) != network.config:
            raise CheckpointError("G and G_ema were made with different arguments")
        state[name] = dict(network.state_dict())
        count = sum(p.numel() for p in network.parameters())
        size = "x".join(map(str, network.size))
        notes.append(f"{name}: {family} {size}, {network.channels} channels, {count:,} parameters")
    return state, notes


def build(cls: type[nn.Module], config: dict[str, Any], tensors: dict[str, Any]) -> nn.Module:
    """The network of a file's settings, if it is no larger than the file's tensors. Raises: CheckpointError."""
    _small(config, len(tensors))
    numbers = sum(_behind(tensors.values()).values())
    try:
        with _Budget(2 * numbers + 1_000_000):
            return cls(**config).eval().requires_grad_(False)
    except CheckpointError:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise CheckpointError(f"its settings make no network ({error})") from error


def _behind(tensors: Iterable[Strided | Tensor]) -> dict[int, int]:
    """Numbers that lie in the file behind tensors, by storage, so that each counts once."""
    return {
        id(one.storage if isinstance(one, Strided) else one): one.storage.count
        if isinstance(one, Strided)
        else one.numel()
        for one in tensors
    }


def _small(config: dict[str, Any], layers: int) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _small(value, layers)
        most = layers if name in ("num_layers", "num_critical") else 16384 if name == "img_resolution" else 1 << 24
        if isinstance(value, int | float) and not abs(value) <= most:
            raise CheckpointError(f"its settings have {name} {value}, which is beyond what its {layers} tensors can be")


@torch.no_grad()
def _complete(network: nn.Module, tensors: dict[str, Tensor], name: str) -> list[str]:
    """Add to a port's tensors the filters, which are constants, and a mean latent where it left that out."""
    notes = []
    tensors.update((key, one) for key, one in network.state_dict().items() if key.endswith("resample_filter"))
    if name != "discriminator" and "mapping.w_avg" not in tensors and "mapping.fc0.weight" in tensors:
        tensors["mapping.w_avg"] = torch.zeros(network.w_dim)
        load_module(network, tensors, name)
        z = network.sample_z(_DRAWS, keyed_generator("mean latent", 0))
        tensors["mapping.w_avg"] = network.mapping(z)[:, 0].mean(0)
        notes.append(f"{name}: it has no mean latent, which truncation needs; computed from {_DRAWS} latents")
    return notes
