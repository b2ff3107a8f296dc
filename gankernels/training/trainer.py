"""One training step, and the whole state that the next step depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankernels import _backend
from gankernels.data import ImageData, Sampler
from gankernels.data.dataset import keyed_generator
from gankernels.errors import CheckpointError, TrainingDiverged
from gankernels.losses import clip_weights_, objective
from gankernels.training.checkpoint import load_module, rng_state, set_rng_state
from gankernels.training.config import TrainConfig
from gankernels.training.ema import Ema

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
        self.g_optimiser = torch.optim.Adam(self.generator.parameters(), lr=config.lr, betas=config.betas)
        self.d_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=config.lr, betas=config.betas)
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

        The generator learns from the last of those generated minibatches, whose graph is still there.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite; the weights are those of before its optimiser step.
        """
        config, number = self.config, self.step_count + 1
        for k in range(config.d_steps):
            indices, mirrored = self.sampler.next(config.batch)
            real = self.data.batch(indices, mirrored).to(self.device)
            z = self.latents("latents", config.batch, self.step_count * config.d_steps + k)
            with torch.set_grad_enabled(k == config.d_steps - 1):
                fake = self.generator(z)
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake.detach())
            d_loss = self.objective.discriminator(real_logits, fake_logits)
            self._descend(self.d_optimiser, self.discriminator, d_loss, f"step {number}: the discriminator's")
            if config.weight_clip is not None:
                clip_weights_(self.discriminator, config.weight_clip)

        self.discriminator.requires_grad_(False)  # its weight gradients are not wanted here, so nothing computes them
        g_loss = self.objective.generator(self.discriminator(fake))
        self._descend(self.g_optimiser, self.generator, g_loss, f"step {number}: the generator's")
        self.discriminator.requires_grad_(True)

        self.step_count = number
        self.ema.update(self.generator, config.images_per_step, self.images)
        values = torch.stack([d_loss, g_loss, real_logits.mean(), fake_logits.mean()]).detach().tolist()
        self.sums = [total + value for total, value in zip(self.sums, values, strict=True)]
        self.summed += 1

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
        z = self.latents("fixed", count)
        return torch.cat([self.ema.module(part) for part in z.split(self.config.batch)])

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


def _first_not_finite(module: nn.Module, loss: Tensor) -> str:
    bad = [n for n, p in module.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    gradient = f"the first gradient that is not finite is that of {bad[0]}" if bad else "all gradients are finite"
    return f"loss is {loss.item():g}; {gradient}"
