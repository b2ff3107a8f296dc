"""Training of small dense networks on points: what the pictures of progress and of mode collapse are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gankernels import losses

Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class ToyRun:
    """Training of one objective on points.

    Attributes:
        objective: of `gankernels.losses`.
        penalty: weight of the objective's own gradient penalty, if it has one.
        r1: gamma of R1 at every step, 0 for none.
        d_steps: discriminator steps to one of the generator.
        z_dim, hidden, layers: of both networks, with ReLU.
        batch, lr, betas: Adam's.
    """

    objective: str
    penalty: float = 10.0
    r1: float = 0.0
    d_steps: int = 1
    z_dim: int = 2
    hidden: int = 64
    layers: int = 2
    batch: int = 128
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.9)


@dataclass
class Moment:
    """One generator step done: its number, losses without penalties, and the generator."""

    step: int
    d_loss: float
    g_loss: float
    generator: nn.Module
    z_dim: int

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """[count, d] of latents that are the same at every moment."""
        return self.generator(torch.randn(count, self.z_dim, generator=torch.Generator().manual_seed(7)))


def dense(inputs: int, outputs: int, run: ToyRun) -> nn.Sequential:
    """inputs - hidden x layers - outputs, with ReLU."""
    widths = [inputs] + [run.hidden] * run.layers
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def play(run: ToyRun, data: Draw, steps: int, seed: int = 0) -> Iterator[Moment]:
    """Train for `steps` generator steps on ``data(n, generator)`` -> [n, d]; yields after each."""
    draws = torch.Generator().manual_seed(seed)
    game, d = losses.objective(run.objective), data(1, draws).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = dense(run.z_dim, d, run), dense(d, 1, run)
    optimisers = [torch.optim.Adam(net.parameters(), run.lr, run.betas) for net in (generator, discriminator)]

    def descend(which: int, loss: Tensor) -> None:
        optimisers[which].zero_grad()
        loss.backward()
        optimisers[which].step()

    def fakes() -> Tensor:
        return generator(torch.randn(run.batch, run.z_dim, generator=draws))

    for step in range(1, steps + 1):
        for _ in range(run.d_steps):
            real, fake = data(run.batch, draws), fakes().detach()
            d_loss = total = game.discriminator(discriminator(real), discriminator(fake))
            if game.penalty is not None:
                total = total + game.penalty(discriminator, real, fake, None, draws, run.penalty)
            if run.r1:
                total = total + losses.r1_penalty(discriminator, real, run.r1)
            descend(1, total)
            if game.weight_clip is not None:
                losses.clip_weights_(discriminator, game.weight_clip)
        g_loss = game.generator(discriminator(fakes()))
        descend(0, g_loss)
        yield Moment(step, d_loss.item(), g_loss.item(), generator, run.z_dim)
