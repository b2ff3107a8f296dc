"""A toy in the plane: data about a centre, and players that descend in turn."""

import torch

from gankernels.lab.toy import ToyRun

CENTRE = torch.tensor([3.0, 1.0])
SHAPE = ToyRun("gan", hidden=32)


def cloud(n, generator):
    return CENTRE + 0.4 * torch.randn(n, 2, generator=generator)


def off(points):
    """Distance of the points' mean from the data's."""
    return (points.mean(0) - CENTRE).norm().item()


def descend(players, look, steps, lr=3e-3, first=1):
    """Adam on each (module's parameters, loss function) in turn, `first` steps of the first one; then `look()`."""
    optimisers = [torch.optim.Adam(parameters, lr, (0.5, 0.9)) for parameters, _ in players]
    for _ in range(steps):
        for i, (optimiser, (_, loss)) in enumerate(zip(optimisers, players, strict=True)):
            for _ in range(first if i == 0 else 1):
                optimiser.zero_grad()
                loss().backward()
                optimiser.step()
        look()
