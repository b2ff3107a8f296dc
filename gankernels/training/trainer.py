"""One training step, and the whole state that the next step depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gankernels import _backend
from gankernels.data import ImageData, Sampler
from gankernels.data.dataset import keyed_generator
from gankernels.errors import CheckpointError
from gankernels.losses import clip_weights_, moved
from gankernels.models.progan import shrink
from gankernels.training.adaptive import AdaptiveAugment
from gankernels.training.blur import Blur
from gankernels.training.checkpoint import load_module
from gankernels.training.conditions import Conditions
from gankernels.training.config import TrainConfig
from gankernels.training.descent import Descent
from gankernels.training.ema import Ema
from gankernels.training.game import Game, Minibatch, path_penalty
from gankernels.training.growth import stage
from gankernels.training.processes import Processes
from gankernels.training.shares import Share, Shares
from gankernels.training.styles import averages, forward, mixed_styles

METRICS = ("d_loss", "g_loss", "d_real", "d_fake")


class Trainer:
    """Networks, optimisers, moving average and data cursor of a run.

    Every draw depends on (seed, step, the sample's place in the batch) and the order of the data on (seed, epoch), so
    that two runs of one configuration draw the same whatever was resumed in between, however many `processes` there
    are and in however many rounds (config.accumulate) each runs its samples. All processes hold the same state.

    Raises: ConfigError where the batch cannot be shared out so.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: ImageData,
        generator: nn.Module,
        discriminator: nn.Module,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.data, self.processes = config, data, processes or Processes()
        self.device = config.torch_device()
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.generator = generator.to(self.device, self.dtype).train()
        self.discriminator = discriminator.to(self.device, self.dtype).train()
        self.shares = Shares(config, self.generator, self.discriminator, self.processes, self.device)
        descents = config, self.device, self.processes
        self.g_descent = Descent(self.generator, *descents, config.lr, config.path_length, config.path_length_every)
        squared = config.r1 or config.r2
        self.d_descent = Descent(self.discriminator, *descents, config.d_lr or config.lr, squared, config.r1_every)
        self.conditions = Conditions(config, data, self.device, self.dtype)
        self.mean_path = torch.zeros(1, device=self.device, dtype=self.dtype)
        self.augment = AdaptiveAugment(config, self.device, self.processes)
        self.game = Game(config, self.generator, self.discriminator, self.augment, Blur(config))
        self.ema = Ema(self.generator, config.ema, config.ema_rampup)
        self.sampler = Sampler(len(data), config.seed, mirror=config.mirror)
        self.step_count = 0
        self.sums = [0.0] * len(METRICS)
        self.summed = 0

    @property
    def images(self) -> int:
        """Real images shown to the discriminator so far."""
        return self.step_count * self.config.images_per_step

    def latents(self, purpose: str, count: int, step: int = 0) -> Tensor:
        """float32 [count, z_dim], known from (purpose, config.seed, step) alone."""
        draws = keyed_generator(purpose, self.config.seed, step)
        return self.generator.sample_z(count, draws).to(self.device)

    def step(self) -> None:
        """`d_steps` discriminator steps on separate real and generated minibatches, then a generator step.

        The generator learns from the last of those generated minibatches: through its graph, which is still there, or
        where a batch is run in rounds through the same images made again. Lazy regularisers take a step of their own
        after either, their gradient multiplied by their interval.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite; the weights are those of before its optimiser step.
                With 16 bits such a step is skipped, see `Descent`.
            ProcessLost: another process is gone.
        """
        self._grow()
        self.game.at(self.images)
        for k in range(self.config.d_steps):
            turn = self.step_count * self.config.d_steps + k
            batch = self._minibatch(turn, learn=k == self.config.d_steps - 1)
            d_values = self._train_discriminator(batch)
        g_loss = self._train_generator(batch)

        self.step_count += 1
        self.ema.update(self.generator, self.config.images_per_step, self.images)
        d_loss, d_real, d_fake = d_values
        values = self.processes.sums(torch.stack([d_loss, g_loss, d_real, d_fake]).tolist())
        if all(map(math.isfinite, values)):  # a step that 16 bits overflowed in is counted, and is in no mean
            self.sums = [a + b for a, b in zip(self.sums, values, strict=True)]
            self.summed += 1

    def _grow(self) -> None:
        if self.config.grow_from is not None:
            for network in (self.generator, self.ema.module, self.discriminator):
                network.grow(*stage(self.config, self.images))

    def _minibatch(self, turn: int, learn: bool) -> Minibatch:
        """This process's real images of the next batch, and its generated ones, with a graph where the generator is
        to `learn` from them."""
        shares, rounds = self.shares, self.shares.rounds
        indices, mirrored = self.sampler.next(self.config.batch)
        real, c = self._real(indices, mirrored), self.conditions.of_images(indices, turn)
        with torch.set_grad_enabled((learn and len(rounds) == 1) or self.config.consensus > 0):
            passes = [shares.local] if averages(self.generator) else rounds
            fakes = [self._fake(turn, share, c, update_emas=i == 0) for i, share in enumerate(passes)]
        return Minibatch(turn, shares.local, real, fakes[0] if len(fakes) == 1 else torch.cat(fakes), c)

    def _fake(self, turn: int, share: Share, c: Tensor | None, *, update_emas: bool) -> Tensor:
        z = self.latents("latents", self.config.batch, turn)
        draws = keyed_generator("mixing", self.config.seed, turn)
        keys = share.keys("noise", self.config.seed, turn)
        return forward(self.generator, z, self.config, draws, share, keys, c, update_emas=update_emas)

    def _real(self, indices: Tensor, mirrored: Tensor | None) -> Tensor:
        """This process's of these real images, as those that the generator makes at its stage."""
        mine = self.shares.local
        real = self.data.batch(mine.of(indices), None if mirrored is None else mine.of(mirrored))
        real = real.to(self.device, self.dtype)
        if self.config.grow_from is None:
            return real
        resolution, alpha = self.generator.grown
        return shrink(real, self.generator.sizes[resolution], alpha)

    def _train_discriminator(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns this process's share of the mean loss and logits."""
        config, whose = self.config, f"step {self.step_count + 1}: the discriminator's"
        parts, judged = batch.split(self.shares.rounds), []

        def losses() -> Iterator[Tensor]:
            for part in parts:
                judged.append(self.game.judge(part))
                yield judged[-1].total
                judged[-1] = judged[-1].detached()

        self.d_descent.step(losses(), whose)
        real, fake = (torch.cat([getattr(one, name) for one in judged]) for name in ("real_logits", "fake_logits"))
        self.augment.observe(real, batch.turn)
        if (config.r1 or config.r2) and config.r1_every > 1 and batch.turn % config.r1_every == 0:
            self.d_descent.step((self.game.lazy_penalty(part) for part in parts), whose + " R1")
        if config.weight_clip is not None:
            clip_weights_(self.discriminator, config.weight_clip)
        means = real.mean() * batch.share.weight, fake.mean() * batch.share.weight
        if config.objective == "began":
            sums = self.processes.sums([mean.item() for mean in means])
            self.game.balance.update(*torch.tensor(sums, dtype=self.dtype))
        return sum(one.loss for one in judged), *means

    def _train_generator(self, batch: Minibatch) -> Tensor:
        """Returns this process's share of the mean loss."""
        config, whose = self.config, f"step {self.step_count + 1}: the generator's"
        every, parts, seen = config.path_length_every, batch.split(self.shares.rounds), []

        def losses() -> Iterator[Tensor]:
            for part in parts:
                if len(parts) > 1 or config.consensus:  # consensus has used that graph up
                    part = replace(part, fake=self._fake(part.turn, part.share, part.conditions, update_emas=False))
                loss, total = self.game.deceive(part)
                seen.append(loss.detach())
                yield total
            if config.path_length and every == 1:
                yield from self._path_penalties(config.path_length)

        # Its weight gradients are not wanted here, so nothing computes them; in consensus both players' are the loss.
        self.discriminator.requires_grad_(config.consensus > 0)
        self.g_descent.step(losses(), whose)
        self.discriminator.requires_grad_(True)
        if config.path_length and every > 1 and self.step_count % every == 0:
            self.g_descent.step(self._path_penalties(config.path_length * every), whose + " path length")
        return sum(seen)

    def _path_penalties(self, weight: float) -> Iterator[Tensor]:
        """The penalty on half a batch of its own latents, a share a round.

        Its target is the mean over all, so that several rounds measure the lengths first, without a graph.
        """
        size, step = max(self.config.batch // 2, 1), self.step_count
        shares, _ = self.shares.split(size)
        z, c = self.latents("path length", size, step), self.conditions.drawn("path conditions", size, step)

        def lengths(share: Share) -> Tensor:
            draws = keyed_generator("path noise", self.config.seed, step)
            return self.game.path_lengths(share, mixed_styles(self.generator, z, self.config, draws, c), step)

        with torch.set_grad_enabled(len(shares) == 1):
            found = [lengths(share) for share in shares]
        everything = self.processes.total(torch.cat(found).detach().sum()) / size
        target = moved(self.mean_path, everything)
        for share in shares:
            yield path_penalty(found.pop() if len(shares) == 1 else lengths(share), target, share, weight)

    def take_metrics(self) -> dict[str, float]:
        """Mean losses and logits since the last call, of the whole batches of those steps in which all were finite.

        NaN where there was no such step."""
        means = {
            n: total / self.summed if self.summed else math.nan for n, total in zip(METRICS, self.sums, strict=True)
        }
        self.sums, self.summed = [0.0] * len(METRICS), 0
        return means | self._skipped()

    def _skipped(self) -> dict[str, float]:
        """Steps that 16 bits overflowed in, since the run began."""
        if not self.g_descent.halves:
            return {}
        return {"g_skipped": self.g_descent.skipped, "d_skipped": self.d_descent.skipped}

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """Images [count, C, R, R] of the averaged generator from latents that stay the same over the run."""
        self._grow()
        z, c, batch = self.latents("fixed", count), self.conditions.in_turn(count), self.config.batch
        parts = zip(z.split(batch), [None] * count if c is None else c.split(batch), strict=False)
        return torch.cat([self.ema.module.display(*part) for part in parts])

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as `gankernels.training.checkpoint.save` takes it."""
        return {
            "kind": "training",
            "config": self.config.to_json(),
            "channels": self.data.channels,
            "data": self.data.digest(),
            "class_names": list(self.data.class_names) if self.config.classes else [],
            "generator_config": self.generator.config,
            "discriminator_config": self.discriminator.config,
            "torch": self._arithmetic(),
            "step": self.step_count,
            "sampler": self.sampler.state(),
            "sums": self.sums,
            "summed": self.summed,
            "mean_path": self.mean_path,
            "balance": self.game.balance.k,
            "augment": self.augment.state(),
            "generator": dict(self.generator.state_dict()),
            "average": dict(self.ema.module.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "g_descent": self.g_descent.state(),
            "d_descent": self.d_descent.state(),
        }

    def load(self, state: dict[str, Any], name: str) -> list[str]:
        """Go on from a state; returns notes on why the continuation is not bit for bit, if it is not.

        Raises:
            CheckpointError: the state belongs to another model or other data, or lacks something.
        """
        try:
            if state["data"] != self.data.digest():
                raise CheckpointError(
                    f"{name} was trained on other images than {self.data.name} holds now; "
                    f"restore them, or start a new run"
                )
            load_module(self.generator, state["generator"], f"{name} (generator)")
            load_module(self.ema.module, state["average"], f"{name} (average)")
            load_module(self.discriminator, state["discriminator"], f"{name} (discriminator)")
            self.g_descent.load(state["g_descent"])
            self.d_descent.load(state["d_descent"])
            self.sampler = Sampler(len(self.data), self.config.seed, mirror=self.config.mirror, **state["sampler"])
            self.step_count, self.sums, self.summed = state["step"], state["sums"], state["summed"]
            self.mean_path.copy_(state["mean_path"])
            self.augment.load(state["augment"])
            self.game.balance.k = state["balance"]
            before = state["torch"]
        except KeyError as error:
            raise CheckpointError(
                f"{name} lacks {error}; it is incomplete, or of an earlier version, whose runs that one alone goes on "
                f"with; take another checkpoint, or that version"
            ) from error
        now = self._arithmetic()
        if now == before:
            return []
        what = "torch, threads, device, backend, CPU kernels, processes and rounds"
        return [f"not bit for bit: saved by {what} {before}, continued by {now}"]

    def _arithmetic(self) -> list[str | int]:
        """What the rounding of a step depends on beside the state: equal lists continue bit for bit on the CPU."""
        backend = _backend.preferred(self.device)
        return [
            *(torch.__version__, torch.get_num_threads(), self.device.type),
            *(backend, _backend.cpu_capability(), self.processes.world, self.config.accumulate),
        ]
