"""One training step, and the whole state that the next step depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankernels import _backend
from gankernels.data import ImageData, Sampler
from gankernels.data.dataset import keyed_generator
from gankernels.errors import CheckpointError
from gankernels.losses import clip_weights_
from gankernels.models.progan import shrink
from gankernels.training.adaptive import AdaptiveAugment
from gankernels.training.checkpoint import load_module, rng_state, set_rng_state
from gankernels.training.config import TrainConfig
from gankernels.training.descent import Descent
from gankernels.training.ema import Ema
from gankernels.training.game import Game, Judged, Minibatch
from gankernels.training.growth import stage
from gankernels.training.styles import forward

METRICS = ("d_loss", "g_loss", "d_real", "d_fake")


class Trainer:
    """Networks, optimisers, moving average and data cursor of a run.

    Latents depend on (seed, step) and the order of the data on (seed, epoch), so that two runs of one configuration
    draw the same whatever was resumed in between. Layers that draw (dropout) use torch's global generators, whose
    state is part of `state`.
    """

    def __init__(self, config: TrainConfig, data: ImageData, generator: nn.Module, discriminator: nn.Module) -> None:
        self.config, self.data = config, data
        self.device = config.torch_device()
        self.generator = generator.to(self.device).train()
        self.discriminator = discriminator.to(self.device).train()
        lazy = config.path_length, config.path_length_every
        self.g_descent = Descent(self.generator, config, config.lr, *lazy)
        self.d_descent = Descent(self.discriminator, config, config.d_lr or config.lr, config.r1, config.r1_every)
        self.mean_path = torch.zeros(1, device=self.device)
        self.augment = AdaptiveAugment(config, self.device)
        self.game = Game(config, self.generator, self.discriminator, self.augment)
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

        The generator learns from the last of those generated minibatches, whose graph is still there. Lazy regularisers
        take a step of their own after either, their gradient multiplied by their interval.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite; the weights are those of before its optimiser step.
        """
        self._grow()
        for k in range(self.config.d_steps):
            turn = self.step_count * self.config.d_steps + k
            batch = self._minibatch(turn, learn=k == self.config.d_steps - 1)
            judged = self._train_discriminator(batch)
        g_loss = self._train_generator(batch)

        self.step_count += 1
        self.ema.update(self.generator, self.config.images_per_step, self.images)
        values = [judged.loss, g_loss, judged.real_logits.mean(), judged.fake_logits.mean()]
        self.sums = [a + b for a, b in zip(self.sums, torch.stack(values).detach().tolist(), strict=True)]
        self.summed += 1

    def _grow(self) -> None:
        if self.config.grow_from is not None:
            for network in (self.generator, self.ema.module, self.discriminator):
                network.grow(*stage(self.config, self.images))

    def _minibatch(self, turn: int, learn: bool) -> Minibatch:
        """The next real images, and generated ones, with a graph where the generator is to `learn` from them."""
        real = self._real()
        z = self.latents("latents", self.config.batch, turn)
        with torch.set_grad_enabled(learn):
            fake = forward(self.generator, z, self.config, keyed_generator("mixing", self.config.seed, turn))
        return Minibatch(turn, real, fake)

    def _real(self) -> Tensor:
        """The next real images, as those that the generator makes at its stage."""
        indices, mirrored = self.sampler.next(self.config.batch)
        real = self.data.batch(indices, mirrored).to(self.device)
        if self.config.grow_from is None:
            return real
        resolution, alpha = self.generator.grown
        return shrink(real, self.generator.sizes[resolution], alpha)

    def _train_discriminator(self, batch: Minibatch) -> Judged:
        config, whose = self.config, f"step {self.step_count + 1}: the discriminator's"
        judged = self.game.judge(batch)
        self.augment.observe(judged.real_logits, batch.turn)
        self.d_descent.step(judged.total, whose)
        if config.r1 and config.r1_every > 1 and batch.turn % config.r1_every == 0:
            self.d_descent.step(self.game.lazy_r1(batch), whose + " R1")
        if config.weight_clip is not None:
            clip_weights_(self.discriminator, config.weight_clip)
        return judged

    def _train_generator(self, batch: Minibatch) -> Tensor:
        config, whose = self.config, f"step {self.step_count + 1}: the generator's"
        every = config.path_length_every
        self.discriminator.requires_grad_(False)  # its weight gradients are not wanted here, so nothing computes them
        loss = total = self.game.deceive(batch)
        if config.path_length and every == 1:
            total = total + self._path_length(config.path_length)
        self.g_descent.step(total, whose)
        self.discriminator.requires_grad_(True)
        if config.path_length and every > 1 and self.step_count % every == 0:
            self.g_descent.step(self._path_length(config.path_length * every), whose + " path length")
        return loss

    def _path_length(self, weight: float) -> Tensor:
        """The penalty on half a batch of its own latents."""
        z = self.latents("path length", max(self.config.batch // 2, 1), self.step_count)
        return self.game.path_length(z, self.mean_path, self.step_count, weight)

    def take_metrics(self) -> dict[str, float]:
        """Mean losses and logits since the last call."""
        means = {name: total / max(self.summed, 1) for name, total in zip(METRICS, self.sums, strict=True)}
        self.sums, self.summed = [0.0] * len(METRICS), 0
        return means

    @torch.no_grad()
    def samples(self, count: int) -> Tensor:
        """Images [count, C, R, R] of the averaged generator from latents that stay the same over the run."""
        self._grow()
        z = self.latents("fixed", count)
        return torch.cat([self.ema.module.display(part) for part in z.split(self.config.batch)])

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as `gankernels.training.checkpoint.save` takes it."""
        return {
            "kind": "training",
            "config": self.config.to_json(),
            "channels": self.data.channels,
            "data": self.data.digest(),
            "generator_config": self.generator.config,
            "discriminator_config": self.discriminator.config,
            "torch": self._arithmetic(),
            "step": self.step_count,
            "sampler": self.sampler.state(),
            "sums": self.sums,
            "summed": self.summed,
            "rng": rng_state(),
            "mean_path": self.mean_path,
            "augment": self.augment.state(),
            "generator": dict(self.generator.state_dict()),
            "average": dict(self.ema.module.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "g_optimiser": self.g_descent.optimiser.state_dict(),
            "d_optimiser": self.d_descent.optimiser.state_dict(),
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
            self.g_descent.optimiser.load_state_dict(state["g_optimiser"])
            self.d_descent.optimiser.load_state_dict(state["d_optimiser"])
            self.sampler = Sampler(len(self.data), self.config.seed, mirror=self.config.mirror, **state["sampler"])
            self.step_count, self.sums, self.summed = state["step"], state["sums"], state["summed"]
            self.mean_path.copy_(state["mean_path"])
            self.augment.load(state["augment"])
            set_rng_state(state["rng"])
            before = state["torch"]
        except KeyError as error:
            raise CheckpointError(f"{name} lacks {error}; it is incomplete, take another checkpoint") from error
        now = self._arithmetic()
        if now == before:
            return []
        what = "torch, threads, device, backend and CPU kernels"
        return [f"not bit for bit: saved by {what} {before}, continued by {now}"]

    def _arithmetic(self) -> list[str | int]:
        """What the rounding of a step depends on beside the state: equal lists continue bit for bit on the CPU."""
        backend = _backend.preferred(self.device)
        return [
            *(torch.__version__, torch.get_num_threads(), self.device.type),
            *(backend, _backend.cpu_capability()),
        ]
