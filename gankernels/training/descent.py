"""A player's steps downhill: its optimiser, gradients over processes, and what happens where one is not finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gankernels.errors import TrainingDiverged
from gankernels.training.config import TrainConfig
from gankernels.training.processes import Processes

FIRST_SCALE = 2.0**16
LARGEST_SCALE = 2.0**24
GROWS_AFTER = 2000
SKIPS = 30
"""Steps in a row that 16 bits may overflow in before a run stops: a scale of 2^24 is then below 1."""


class Descent:
    """Adam on one network.

    Where a regulariser takes a step of its own every `every` steps, lr and betas are those of as many steps fewer
    (Karras et al. 2019, arXiv 1912.04958, appendix B).

    With config.precision "float16" the loss is multiplied by a power of two and the gradients divided by it: halved
    where a gradient is not finite, doubled after `GROWS_AFTER` steps without (Micikevicius et al. 2017, arXiv
    1710.03740). With either 16-bit precision such a step is skipped and counted.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainConfig,
        device: torch.device,
        processes: Processes,
        lr: float,
        weight: float,
        every: int,
    ) -> None:
        self.module, self.processes = module, processes
        self.halves = config.half_on(device)
        self.scaled = self.halves and config.precision == "float16"
        self.scale = FIRST_SCALE if self.scaled else 1.0
        self.good = self.skipped = self.in_a_row = 0
        share = every / (every + 1) if weight and every > 1 else 1.0
        betas = tuple(beta**share for beta in config.betas)
        self.optimiser = torch.optim.Adam(module.parameters(), lr=lr * share, betas=betas)

    def step(self, losses: Iterable[Tensor], whose: str) -> None:
        """One step on the sum of the losses, over processes too; each is asked for after the one before is done with.

        Raises:
            TrainingDiverged: loss or gradient are not finite (in 16 bits `SKIPS` times in a row); names the parameter.
                The weights are as they were.
        """
        self.optimiser.zero_grad(set_to_none=True)
        total = None
        for loss in losses:
            (loss * self.scale if self.scaled else loss).backward()
            total = loss.detach().clone() if total is None else total + loss.detach()
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        self.processes.add_([total, *gradients])
        if self.scaled:
            torch._foreach_mul_(gradients, 1 / self.scale)
        largest = torch._foreach_norm(gradients, float("inf"))
        finite = torch.isfinite(torch.stack([total.float(), *(one.float() for one in largest)])).all().item()
        if finite:
            self.optimiser.step()
        elif not self.halves:
            raise TrainingDiverged(f"{whose} {self._first_not_finite(total)}")
        self._count(finite, total, whose)

    def _count(self, finite: bool, total: Tensor, whose: str) -> None:
        if finite:
            self.good, self.in_a_row = self.good + 1, 0
            if self.scaled and self.good % GROWS_AFTER == 0:
                self.scale = min(self.scale * 2, LARGEST_SCALE)
            return
        self.good, self.skipped, self.in_a_row = 0, self.skipped + 1, self.in_a_row + 1
        if self.in_a_row >= SKIPS:
            raise TrainingDiverged(
                f"{whose} {self._first_not_finite(total)}, {SKIPS} steps in a row, the loss scale at {self.scale:g}"
            )
        if self.scaled:
            self.scale /= 2

    def _first_not_finite(self, loss: Tensor) -> str:
        named = self.module.named_parameters()
        bad = [n for n, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
        gradient = f"the first gradient that is not finite is that of {bad[0]}" if bad else "all gradients are finite"
        return f"loss is {loss.item():g}; {gradient}"

    def state(self) -> dict[str, Any]:
        counts = {"scale": self.scale, "good": self.good, "skipped": self.skipped, "in_a_row": self.in_a_row}
        return {"optimiser": self.optimiser.state_dict(), **counts}

    def load(self, state: dict[str, Any]) -> None:
        """Raises KeyError for a state that lacks something."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.scale, self.good = state["scale"], state["good"]
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
