"""A generator's training pass: style mixing, and averages that move."""

import inspect

import torch
from torch import Tensor, nn

from gankernels.training.config import TrainConfig


def forward(generator: nn.Module, z: Tensor, config: TrainConfig, draws: torch.Generator) -> Tensor:
    """Images of latents [N, z_dim] for training; moving averages inside the generator follow this batch."""
    if not hasattr(generator, "mapping"):
        return generator(z)
    ws = mixed_styles(generator, z, config, draws, update_emas=True)
    takes = inspect.signature(generator.synthesis.forward).parameters
    return generator.synthesis(ws, **({"update_emas": True} if "update_emas" in takes else {}))


def mixed_styles(
    generator: nn.Module, z: Tensor, config: TrainConfig, draws: torch.Generator, *, update_emas: bool = False
) -> Tensor:
    """ws [N, num_ws, w_dim] of latents, of which a share config.mixing takes the finer styles from a second latent.

    Where the finer ones begin is uniform over the styles in use.
    """
    ws = generator.mapping(z, update_emas=update_emas)
    if not config.mixing:
        return ws
    n, count = len(z), generator.num_ws
    used = _used(generator)
    second = generator.mapping(generator.sample_z(n, draws))
    chosen = torch.rand(n, generator=draws) < config.mixing
    start = torch.where(chosen, torch.randint(1, used, (n,), generator=draws), count)
    finer = torch.arange(count) >= start[:, None]
    return torch.where(finer[:, :, None].to(z.device), second, ws)


def _used(generator: nn.Module) -> int:
    """How many of the ws a generator takes at its stage of growth."""
    resolution, _ = getattr(generator, "grown", (None, 1.0))
    if resolution is None:
        return generator.num_ws
    return 2 * sum(r <= resolution for r in generator.sizes)
