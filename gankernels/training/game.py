"""What either player minimises in one turn: objectives and regularisers on a minibatch, without any update.

Every loss here is the minibatch's share in that of the whole batch: summed over shares it is the batch's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor, nn

from gankernels.losses import (
    Began,
    annealed,
    consensus,
    drift,
    ebgan_discriminator,
    instance_noise,
    objective,
    orthogonal,
    path_lengths,
    pulling_away,
    r1_penalty,
    r2_penalty,
    roth,
    smoothed_logistic,
)
from gankernels.nn import sample_keys
from gankernels.nn.whole import running
from gankernels.training.adaptive import AdaptiveAugment
from gankernels.training.blur import Blur
from gankernels.training.conditions import head_loss
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
        conditions: [size, dim] of the whole batch, or None: classes of the real images, which the generated ones take
            too, or infogan's codes.
    """

    turn: int
    share: Share
    real: Tensor
    fake: Tensor
    conditions: Tensor | None = None

    def split(self, shares: list[Share]) -> list[Minibatch]:
        """The same in consecutive parts."""
        if len(shares) == 1:
            return [self]
        sizes = [len(share.places) for share in shares]
        images = zip(shares, self.real.split(sizes), self.fake.split(sizes), strict=True)
        return [Minibatch(self.turn, *one, self.conditions) for one in images]

    @property
    def c(self) -> Tensor | None:
        """[N, dim] of these samples."""
        return None if self.conditions is None else self.share.of(self.conditions)


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
    """The losses of a configuration.

    Attributes:
        noise: deviation of the instance noise now.
        balance: began's, whose k is the one thing here that a step changes.
    """

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
        self.noise = 0.0
        self.balance = Began(config.balance, config.balance_rate)

    def at(self, images: int) -> None:
        """From now on blur and noise are those after so many real images."""
        self.blur.at(images)
        self.noise = annealed(self.config.instance_noise, images, self.config.instance_noise_images)

    def judge(self, batch: Minibatch) -> Judged:
        """The discriminator's loss on separate real and generated minibatches, with what every step adds to it."""
        fake = batch.fake if self.config.consensus else batch.fake.detach()
        real_logits, of_real = self._see(batch, REAL, batch.real)
        fake_logits, of_fake = self._see(batch, FAKE, fake)
        loss = self._discriminator_loss(real_logits, fake_logits)
        total, weight = self._penalised(loss, batch, real_logits), batch.share.weight
        if self.config.objective == "acgan":
            total = total + head_loss(self.config, of_real, batch.c)
        if self.config.objective in ("acgan", "infogan"):
            total = total + head_loss(self.config, of_fake, batch.c)
        if self.config.consensus:
            total = total + self._consensus(loss, self.objective.generator(fake_logits))
        return Judged(loss * weight, total * weight, real_logits, fake_logits)

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        config = self.config
        if config.objective == "began":
            return self.balance.discriminator(real, fake)
        if config.objective == "ebgan":
            return ebgan_discriminator(real, fake, config.margin)
        if config.real_label != 1:
            return smoothed_logistic(real, fake, config.real_label)
        return self.objective.discriminator(real, fake)

    def _judge(self, batch: Minibatch, call: int, *, heads: bool = False, noise: float = 0.0) -> Callable:
        """The discriminator, of images blurred and augmented first; draws follow from turn, call and sample."""
        keys = sample_keys(4 * batch.turn + call, batch.share.places, self.config.seed)
        c = batch.c if self.config.judges_classes else None

        def judge(images: Tensor):
            with running(keys, batch.share.whole):
                images = instance_noise(self.augment(self.blur(images), keys), noise)
                given = (images,) if c is None else (images, c)
                if not heads:
                    return self.discriminator(*given)
                if hasattr(self.discriminator, "heads"):
                    return self.discriminator.heads(images)
                return self.discriminator(*given, heads=True)

        return judge

    def _see(self, batch: Minibatch, call: int, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits or errors of images with noise, and what the second head says of them, if it is asked."""
        seen = self._judge(batch, call, heads=self.config.heads, noise=self.noise)(images)
        return seen if self.config.heads else (seen, None)

    def _penalised(self, loss: Tensor, batch: Minibatch, real_logits: Tensor) -> Tensor:
        config, judge, fake = self.config, self._judge(batch, R1), batch.fake.detach()
        if config.drift:
            loss = loss + drift(real_logits, config.drift)
        if self.objective.penalty is not None:
            weight = {} if config.penalty is None else {"weight": config.penalty}
            with running(batch.share.keys("penalty", config.seed, batch.turn), batch.share.whole):
                loss = loss + self.objective.penalty(judge, batch.real, fake, None, None, **weight)
        if config.r1_every == 1:
            loss = loss + self._squared(batch, 1)
        if config.roth:
            loss = loss + roth(judge, batch.real, fake, config.roth)
        return loss + self._orthogonal(self.discriminator)

    def _squared(self, batch: Minibatch, times: int) -> Tensor | float:
        """R1 and R2, as far as they are asked for."""
        config, judge, total = self.config, self._judge(batch, R1), 0.0
        if config.r1:
            total = total + r1_penalty(judge, batch.real, config.r1 * times)
        if config.r2:
            total = total + r2_penalty(judge, batch.fake.detach(), config.r2 * times)
        return total

    def _orthogonal(self, network: nn.Module) -> Tensor | float:
        if not self.config.orthogonal:
            return 0.0
        return orthogonal([p for p in network.parameters() if p.ndim > 1], self.config.orthogonal)

    def _consensus(self, d_loss: Tensor, g_loss: Tensor) -> Tensor:
        players = ((g_loss, list(self.generator.parameters())), (d_loss, list(self.discriminator.parameters())))
        return consensus(players, self.config.consensus)

    def lazy_penalty(self, batch: Minibatch) -> Tensor:
        """R1 and R2 of a step of their own, which counts for the `r1_every` steps up to the next."""
        return self._squared(batch, self.config.r1_every) * batch.share.weight

    def deceive(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """The generator's loss on the images that the discriminator has just seen: the objective's, and all of it."""
        config = self.config
        logits, said = self._see(batch, GENERATOR, batch.fake)
        loss = total = self.objective.generator(logits)
        if config.objective in ("acgan", "infogan"):
            total = total + head_loss(config, said, batch.c)
        elif config.objective == "ebgan" and config.pull_away:
            total = total + pulling_away(said) * config.pull_away
        if config.consensus:
            real, _ = self._see(batch, REAL, batch.real)
            total = total + self._consensus(self._discriminator_loss(real, logits), loss)
        total = total + self._orthogonal(self.generator)
        return loss * batch.share.weight, total * batch.share.weight

    def path_lengths(self, share: Share, ws: Tensor, step: int) -> Tensor:
        """[n] of a share of the intermediate latents ws [N, num_ws, w_dim] that step takes for the penalty."""

        with running(share.keys("path length", self.config.seed, step), share.within(ws)):
            return path_lengths(self.generator.synthesis, share.of(ws))


def path_penalty(lengths: Tensor, target: Tensor, share: Share, weight: float) -> Tensor:
    """``weight * mean (length - target)^2`` over the batch, of these samples."""
    return (lengths - target).square().sum() * (weight / share.size)
