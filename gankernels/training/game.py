"""What either player minimises in one turn: objectives and regularisers on a minibatch, without any update.

Every loss here is the minibatch's share in that of the whole batch: summed over shares it is the batch's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor, nn

from gankernels.losses import drift, objective, path_lengths, r1_penalty
from gankernels.nn import sample_keys
from gankernels.nn.whole import running
from gankernels.training.adaptive import AdaptiveAugment
from gankernels.training.blur import Blur
from gankernels.training.config import TrainConfig
from gankernels.training.shares import Share

REAL, FAKE, GENERATOR, R1 = range(4)
"""The calls of the discriminator in one of its turns, each with draws of its own."""


@dataclass(frozen=True)
class Minibatch:
    """Samples of one turn of the discriminator.

    Attributes:
        turn: the number of the turn, from which every draw follows.
        share: which samples of the turn's batch these are.
        real: [N, C, H, W].
        fake: [N, C, H, W], with its graph where the generator learns from it.
    """

    turn: int
    share: Share
    real: Tensor
    fake: Tensor

    def split(self, shares: list[Share]) -> list[Minibatch]:
        """The same in consecutive parts."""
        if len(shares) == 1:
            return [self]
        sizes = [len(share.places) for share in shares]
        images = zip(shares, self.real.split(sizes), self.fake.split(sizes), strict=True)
        return [Minibatch(self.turn, *one) for one in images]


@dataclass(frozen=True)
class Judged:
    """What the discriminator made of a minibatch: the objective's loss, all that it minimises, its logits."""

    loss: Tensor
    total: Tensor
    real_logits: Tensor
    fake_logits: Tensor

    def detached(self) -> Judged:
        """The same without the graph."""
        return Judged(*(getattr(self, field.name).detach() for field in fields(self)))


class Game:
    """The losses of a configuration; it holds no state of its own."""

    def __init__(
        self,
        config: TrainConfig,
        generator: nn.Module,
        discriminator: nn.Module,
        augment: AdaptiveAugment,
        blur: Blur,
    ) -> None:
        self.config, self.generator, self.discriminator = config, generator, discriminator
        self.augment, self.blur = augment, blur
        self.objective = objective(config.objective)

    def judge(self, batch: Minibatch) -> Judged:
        """The discriminator's loss on separate real and generated minibatches, with what every step adds to it."""
        real_logits = self._judge(batch, REAL)(batch.real)
        fake_logits = self._judge(batch, FAKE)(batch.fake.detach())
        loss = self.objective.discriminator(real_logits, fake_logits)
        total, weight = self._penalised(loss, batch, real_logits), batch.share.weight
        return Judged(loss * weight, total * weight, real_logits, fake_logits)

    def _judge(self, batch: Minibatch, call: int) -> Callable[[Tensor], Tensor]:
        """The discriminator, of images blurred and augmented first; draws follow from turn, call and sample."""
        keys = sample_keys(4 * batch.turn + call, batch.share.places, self.config.seed)

        def judge(images: Tensor) -> Tensor:
            with running(keys, batch.share.whole):
                return self.discriminator(self.augment(self.blur(images), keys))

        return judge

    def _penalised(self, loss: Tensor, batch: Minibatch, real_logits: Tensor) -> Tensor:
        config, judge = self.config, self._judge(batch, R1)
        if config.drift:
            loss = loss + drift(real_logits, config.drift)
        if self.objective.penalty is not None:
            with running(batch.share.keys("penalty", config.seed, batch.turn), batch.share.whole):
                loss = loss + self.objective.penalty(judge, batch.real, batch.fake.detach(), None, None)
        if config.r1 and config.r1_every == 1:
            loss = loss + r1_penalty(judge, batch.real, config.r1)
        return loss

    def lazy_r1(self, batch: Minibatch) -> Tensor:
        """R1 of a step of its own, which counts for the `r1_every` steps up to the next."""
        gamma = self.config.r1 * self.config.r1_every
        return r1_penalty(self._judge(batch, R1), batch.real, gamma) * batch.share.weight

    def deceive(self, batch: Minibatch) -> Tensor:
        """The generator's loss on the images that the discriminator has just seen."""
        return self.objective.generator(self._judge(batch, GENERATOR)(batch.fake)) * batch.share.weight

    def path_lengths(self, share: Share, ws: Tensor, step: int) -> Tensor:
        """[n] of a share of the intermediate latents ws [N, num_ws, w_dim] that step takes for the penalty."""

        with running(share.keys("path length", self.config.seed, step), share.within(ws)):
            return path_lengths(self.generator.synthesis, share.of(ws))


def path_penalty(lengths: Tensor, target: Tensor, share: Share, weight: float) -> Tensor:
    """``weight * mean (length - target)^2`` over the batch, of these samples."""
    return (lengths - target).square().sum() * (weight / share.size)
