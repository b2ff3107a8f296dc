"""What either player minimises in one turn: objectives and regularisers on a minibatch, without any update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from gankernels.data.dataset import keyed_generator
from gankernels.losses import drift, objective, path_length, r1_penalty
from gankernels.training.adaptive import FAKE, GENERATOR, R1, REAL, AdaptiveAugment
from gankernels.training.config import TrainConfig
from gankernels.training.styles import mixed_styles


@dataclass(frozen=True)
class Minibatch:
    """The samples of one turn of the discriminator.

    Attributes:
        turn: the number of the turn, from which every draw follows.
        real: [N, C, H, W].
        fake: [N, C, H, W], with its graph where the generator learns from it.
    """

    turn: int
    real: Tensor
    fake: Tensor


@dataclass(frozen=True)
class Judged:
    """What the discriminator made of a minibatch: the objective's loss, all that it minimises, its logits."""

    loss: Tensor
    total: Tensor
    real_logits: Tensor
    fake_logits: Tensor


class Game:
    """The losses of a configuration; it holds no state of its own."""

    def __init__(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module, augment: AdaptiveAugment
    ) -> None:
        self.config, self.generator, self.discriminator, self.augment = config, generator, discriminator, augment
        self.objective = objective(config.objective)

    def judge(self, batch: Minibatch) -> Judged:
        """The discriminator's loss on separate real and generated minibatches, with what every step adds to it."""
        of_real, of_fake = (self.augment.before(self.discriminator, batch.turn, call) for call in (REAL, FAKE))
        real_logits, fake_logits = of_real(batch.real), of_fake(batch.fake.detach())
        loss = self.objective.discriminator(real_logits, fake_logits)
        return Judged(loss, self._penalised(loss, batch, real_logits), real_logits, fake_logits)

    def _penalised(self, loss: Tensor, batch: Minibatch, real_logits: Tensor) -> Tensor:
        config, judge = self.config, self.augment.before(self.discriminator, batch.turn, R1)
        if config.drift:
            loss = loss + drift(real_logits, config.drift)
        if self.objective.penalty is not None:
            draws = keyed_generator("penalty", config.seed, batch.turn)
            loss = loss + self.objective.penalty(judge, batch.real, batch.fake.detach(), None, draws)
        if config.r1 and config.r1_every == 1:
            loss = loss + r1_penalty(judge, batch.real, config.r1)
        return loss

    def lazy_r1(self, batch: Minibatch) -> Tensor:
        """R1 of a step of its own, which counts for the `r1_every` steps up to the next."""
        judge = self.augment.before(self.discriminator, batch.turn, R1)
        return r1_penalty(judge, batch.real, self.config.r1 * self.config.r1_every)

    def deceive(self, batch: Minibatch) -> Tensor:
        """The generator's loss on the images that the discriminator has just seen."""
        return self.objective.generator(self.augment.before(self.discriminator, batch.turn, GENERATOR)(batch.fake))

    def path_length(self, z: Tensor, mean: Tensor, step: int, weight: float) -> Tensor:
        """The path length penalty on latents of its own; moves `mean`."""
        draws = keyed_generator("path noise", self.config.seed, step)
        ws = mixed_styles(self.generator, z, self.config, draws)
        return path_length(self.generator.synthesis, ws, mean, weight, generator=draws)
