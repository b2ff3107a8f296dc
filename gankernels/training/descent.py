"""A player's steps downhill: its optimiser, and what happens where a loss or gradient is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankernels.errors import TrainingDiverged
from gankernels.training.config import TrainConfig


class Descent:
    """Adam on one network.

    Where a regulariser takes a step of its own every `every` steps, lr and betas are those of as many steps fewer
    (Karras et al. 2019, arXiv 1912.04958, appendix B).
    """

    def __init__(self, module: nn.Module, config: TrainConfig, lr: float, weight: float, every: int) -> None:
        self.module = module
        share = every / (every + 1) if weight and every > 1 else 1.0
        betas = tuple(beta**share for beta in config.betas)
        self.optimiser = torch.optim.Adam(module.parameters(), lr=lr * share, betas=betas)

    def step(self, loss: Tensor, whose: str) -> None:
        """One step on the loss.

        Raises:
            TrainingDiverged: loss or gradient are not finite; names the parameter. The weights are as they were.
        """
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        largest = torch._foreach_norm(gradients, float("inf"))
        if not torch.isfinite(torch.stack([loss.detach().float(), *(one.float() for one in largest)])).all():
            raise TrainingDiverged(f"{whose} {self._first_not_finite(loss)}")
        self.optimiser.step()

    def _first_not_finite(self, loss: Tensor) -> str:
        named = self.module.named_parameters()
        bad = [n for n, p in named if p.grad is not None and not torch.isfinite(p.grad).all()]
        gradient = f"the first gradient that is not finite is that of {bad[0]}" if bad else "all gradients are finite"
        return f"loss is {loss.item():g}; {gradient}"
