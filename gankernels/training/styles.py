"""A generator's training pass: style mixing, and averages that move."""

import inspect

import torch
from torch import Tensor, nn

from gankernels.nn.whole import running
from gankernels.training.config import TrainConfig
from gankernels.training.shares import Share


def forward(
    generator: nn.Module,
    z: Tensor,
    config: TrainConfig,
    draws: torch.Generator,
    share: Share,
    keys: Tensor,
    c: Tensor | None = None,
    *,
    update_emas: bool,
) -> Tensor:
    """Images of a share's samples for training, of the whole batch's latents z [N, z_dim].

    The mapping network, which is cheap, takes all of them: its average and StyleGAN3's styles are the batch's.

    Args:
        draws: of the mixing, the whole batch's.
        keys: of the samples' noise.
        c: conditions [N, c_dim], the whole batch's, or None.
        update_emas: moving averages inside the generator follow this batch.
    """
    if not hasattr(generator, "mapping"):
        with running(keys, share.whole):
            return generator(share.of(z), *([] if c is None else [share.of(c)]))
    ws = mixed_styles(generator, z, config, draws, c, update_emas=update_emas)
    with running(keys, share.within(ws)):
        return generator.synthesis(share.of(ws), **({"update_emas": update_emas} if averages(generator) else {}))


def averages(generator: nn.Module) -> bool:
    """Whether the layers keep averages of their inputs, so that one pass must hold all samples when they move."""
    return hasattr(generator, "mapping") and "update_emas" in inspect.signature(generator.synthesis.forward).parameters


def mixed_styles(
    generator: nn.Module,
    z: Tensor,
    config: TrainConfig,
    draws: torch.Generator,
    c: Tensor | None = None,
    *,
    update_emas: bool = False,
) -> Tensor:
    """ws [N, num_ws, w_dim] of latents, of which a share config.mixing takes the finer styles from a second latent.

    Where the finer ones begin is uniform over the styles in use. Both latents have the sample's condition c.
    """
    ws = generator.mapping(z, c, update_emas=update_emas)
    if not config.mixing:
        return ws
    n, count = len(z), generator.num_ws
    used = _used(generator)
    second = generator.mapping(generator.sample_z(n, draws), c)
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
