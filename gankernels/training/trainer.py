"""One training step, and the whole state that the next step depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankernels import _backend
from gankernels.data import ImageData, Sampler
from gankernels.data.dataset import keyed_generator
from gankernels.errors import CheckpointError, TrainingDiverged
from gankernels.losses import clip_weights_, drift, objective, path_length, r1_penalty
from gankernels.models.progan import shrink
from gankernels.training.adaptive import FAKE, GENERATOR, R1, REAL, AdaptiveAugment
from gankernels.training.checkpoint import load_module, rng_state, set_rng_state
from gankernels.training.config import TrainConfig
from gankernels.training.ema import Ema
from gankernels.training.growth import stage
from gankernels.training.styles import forward, mixed_styles

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
        self.objective = objective(config.objective)
        self.g_optimiser = _adam(self.generator, config, config.lr, config.path_length, config.path_length_every)
        self.d_optimiser = _adam(self.discriminator, config, config.d_lr or config.lr, config.r1, config.r1_every)
        self.mean_path = torch.zeros(1, device=self.device)
        self.augment = AdaptiveAugment(config, self.device)
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
        config, number = self.config, self.step_count + 1
        self._grow()
        for k in range(config.d_steps):
            turn = self.step_count * config.d_steps + k
            real = self._real()
            z = self.latents("latents", config.batch, turn)
            with torch.set_grad_enabled(k == config.d_steps - 1):
                fake = forward(self.generator, z, config, keyed_generator("mixing", config.seed, turn))
            of_real, of_fake = (self.augment.before(self.discriminator, turn, call) for call in (REAL, FAKE))
            real_logits, fake_logits = of_real(real), of_fake(fake.detach())
            self.augment.observe(real_logits, turn)
            d_loss = self.objective.discriminator(real_logits, fake_logits)
            whose = f"step {number}: the discriminator's"
            total = self._penalised(d_loss, real, real_logits, fake, turn)
            self._descend(self.d_optimiser, self.discriminator, total, whose)
            if config.r1 and config.r1_every > 1 and turn % config.r1_every == 0:
                judge = self.augment.before(self.discriminator, turn, R1)
                penalty = r1_penalty(judge, real, config.r1 * config.r1_every)
                self._descend(self.d_optimiser, self.discriminator, penalty, whose + " R1")
            if config.weight_clip is not None:
                clip_weights_(self.discriminator, config.weight_clip)

        self.discriminator.requires_grad_(False)  # its weight gradients are not wanted here, so nothing computes them
        judge = self.augment.before(self.discriminator, turn, GENERATOR)
        g_loss = self.objective.generator(judge(fake))
        total, whose, every = g_loss, f"step {number}: the generator's", config.path_length_every
        if config.path_length and every == 1:
            total = total + self._path_length(config.path_length)
        self._descend(self.g_optimiser, self.generator, total, whose)
        self.discriminator.requires_grad_(True)
        if config.path_length and every > 1 and self.step_count % every == 0:
            penalty = self._path_length(config.path_length * every)
            self._descend(self.g_optimiser, self.generator, penalty, whose + " path length")

        self.step_count = number
        self.ema.update(self.generator, config.images_per_step, self.images)
        values = torch.stack([d_loss, g_loss, real_logits.mean(), fake_logits.mean()]).detach().tolist()
        self.sums = [total + value for total, value in zip(self.sums, values, strict=True)]
        self.summed += 1

    def _grow(self) -> None:
        if self.config.grow_from is not None:
            for network in (self.generator, self.ema.module, self.discriminator):
                network.grow(*stage(self.config, self.images))

    def _real(self) -> Tensor:
        """The next real images, as those that the generator makes at its stage."""
        indices, mirrored = self.sampler.next(self.config.batch)
        real = self.data.batch(indices, mirrored).to(self.device)
        if self.config.grow_from is None:
            return real
        resolution, alpha = self.generator.grown
        return shrink(real, self.generator.sizes[resolution], alpha)

    def _penalised(self, loss: Tensor, real: Tensor, real_logits: Tensor, fake: Tensor, turn: int) -> Tensor:
        """The discriminator's loss and what is added to it in every step."""
        config, judge = self.config, self.augment.before(self.discriminator, turn, R1)
        if config.drift:
            loss = loss + drift(real_logits, config.drift)
        if self.objective.penalty is not None:
            draws = keyed_generator("penalty", config.seed, turn)
            loss = loss + self.objective.penalty(judge, real, fake.detach(), None, draws)
        if config.r1 and config.r1_every == 1:
            loss = loss + r1_penalty(judge, real, config.r1)
        return loss

    def _path_length(self, weight: float) -> Tensor:
        """The penalty on half a batch of its own latents."""
        config = self.config
        z = self.latents("path length", max(config.batch // 2, 1), self.step_count)
        draws = keyed_generator("path noise", config.seed, self.step_count)
        ws = mixed_styles(self.generator, z, config, draws)
        return path_length(self.generator.synthesis, ws, self.mean_path, weight, generator=draws)

    def _descend(self, optimiser: torch.optim.Optimizer, module: nn.Module, loss: Tensor, whose: str) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        largest = torch._foreach_norm(gradients, float("inf"))
        if not torch.isfinite(torch.stack([loss.detach().float(), *(one.float() for one in largest)])).all():
            raise TrainingDiverged(f"{whose} {_first_not_finite(module, loss)}")
        optimiser.step()

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
            "g_optimiser": self.g_optimiser.state_dict(),
            "d_optimiser": self.d_optimiser.state_dict(),
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
            self.g_optimiser.load_state_dict(state["g_optimiser"])
            self.d_optimiser.load_state_dict(state["d_optimiser"])
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


def _adam(module: nn.Module, config: TrainConfig, lr: float, weight: float, every: int) -> torch.optim.Adam:
    """Adam; where a regulariser takes a step of its own every `every` steps, lr and betas are those of as many fewer.

    Karras et al. 2019, arXiv 1912.04958, appendix B.
    """
    share = every / (every + 1) if weight and every > 1 else 1.0
    return torch.optim.Adam(module.parameters(), lr=lr * share, betas=tuple(beta**share for beta in config.betas))


def _first_not_finite(module: nn.Module, loss: Tensor) -> str:
    bad = [n for n, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    gradient = f"the first gradient that is not finite is that of {bad[0]}" if bad else "all gradients are finite"
    return f"loss is {loss.item():g}; {gradient}"
