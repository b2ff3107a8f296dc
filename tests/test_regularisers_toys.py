"""Every regulariser does to a discriminator in the plane what it is for.

Bounds come from the formulas where the text says so, and hold with room to spare for seeds 0 to 2.
"""

import pytest
import torch
from toy_support import CENTRE, SHAPE, cloud, descend

from gankernels import losses
from gankernels.lab.toy import dense
from gankernels.nn import SpectralNorm


def slopes(d, x):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(d(x).sum(), x)
    return g.norm(dim=1)


def trained_critic(penalty, steps=150, objective="gan", apart=1.0):
    """A discriminator between two clouds `apart` times |CENTRE| apart, under a penalty (critic, real, fake) -> loss."""
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    d = dense(2, 1, SHAPE)
    objective = losses.objective(objective)
    clouds = [lambda: cloud(64, draws), lambda: cloud(64, draws) - apart * CENTRE]

    def loss():
        real, fake = (draw() for draw in clouds)
        return objective.discriminator(d(real), d(fake)) + penalty(d, real, fake)

    descend([(d.parameters(), loss)], lambda: None, steps, lr=5e-3)
    return d, *(draw() for draw in clouds)


def none(*_):
    return 0


PENALTIES = {
    "r1": lambda d, real, fake: losses.r1_penalty(d, real, 5.0),
    "r2": lambda d, real, fake: losses.r2_penalty(d, fake, 5.0),
    "roth": lambda d, real, fake: losses.roth(d, real, fake, 5.0),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_zero_centred_penalties_flatten(name):
    """Between clouds two deviations apart, whose best logit has slope 0.8 / 0.4^2 = 5."""
    free, real, fake = trained_critic(none, apart=0.25)
    held, _, _ = trained_critic(PENALTIES[name], apart=0.25)
    for where in (real, fake):
        assert slopes(free, where).mean() > 2.5
        assert slopes(held, where).mean() < 0.1 * slopes(free, where).mean()


def test_roth_lets_go_of_a_sure_discriminator():
    """Its weights (1 - D)^2 on real and D^2 on generated points vanish between clouds that never meet; R1 stays."""
    free, real, _ = trained_critic(none)
    roth, r1 = (slopes(trained_critic(PENALTIES[name])[0], real).mean() for name in ("roth", "r1"))
    assert roth > 0.4 * slopes(free, real).mean() > 2 * r1


@pytest.mark.parametrize("name", ["wgan-gp", "dragan"])
def test_norm_penalties_hold_slopes_at_one(name):
    game = losses.objective(name)
    draws = torch.Generator().manual_seed(3)
    held, real, fake = trained_critic(lambda *a: game.penalty(*a, None, draws), 300, objective=name)
    where = (real + fake) / 2 if name == "wgan-gp" else real
    # WGAN-GP's own equilibrium lies at 1 + W / (2 weight), see below: 0.16 over 1.
    assert (slopes(held, where) - 1).abs().mean() < 0.25
    free, _, _ = trained_critic(none, 300, objective=name)
    assert (slopes(free, where) - 1).abs().mean() > 0.4


def test_a_wgan_critic_measures_the_distance():
    """Its gain is the earth mover's distance W, over it by what the penalty's weight lets the slope s be over 1:
    s W - weight (s - 1)^2 is largest at s = 1 + W / (2 weight)."""
    game, draws = losses.objective("wgan-gp"), torch.Generator().manual_seed(3)
    d, real, fake = trained_critic(lambda *a: game.penalty(*a, None, draws), 300, objective="wgan-gp")
    gain = -game.discriminator(d(real), d(fake)).item()
    distance = CENTRE.norm().item()
    assert gain == pytest.approx(distance * (1 + distance / 20), rel=0.08)


def test_spectral_norm_bounds_the_slope():
    torch.manual_seed(0)
    net = dense(2, 1, SHAPE)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(5)
    x = torch.randn(100, 2)
    assert slopes(net, x).max() > 5
    bounded = SpectralNorm(net)
    for _ in range(20):
        bounded(x)
    assert slopes(bounded.eval(), x).max() < 1 + 1e-4


def test_orthogonal_regularisation_straightens():
    w = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cosine = lambda: torch.corrcoef(w.detach()).abs().fill_diagonal_(0).max()  # noqa: E731
    optimiser = torch.optim.Adam([w], 0.02)
    before = cosine()
    for _ in range(200):
        optimiser.zero_grad()
        losses.orthogonal([w], 1.0).backward()
        optimiser.step()
    gram = w.detach() @ w.detach().t()
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-2
    assert before > 0.1
