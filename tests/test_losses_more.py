"""Energy losses, heads and regularisers against their formulas on numbers made by hand, gradients in float64."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck

from gankernels import losses

REAL, FAKE = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor([2.0, 13.0, 3.0], dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ebgan():
    game = losses.objective("ebgan")
    assert game.error
    assert game.discriminator(REAL, FAKE) == 2.5 + (8 + 0 + 7) / 3
    assert losses.ebgan_discriminator(REAL, FAKE, margin=3.0) == pytest.approx(2.5 + 1 / 3)
    assert game.generator(FAKE) == 6.0


def test_pulling_away():
    codes = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)  # cosines 0, sqrt .5, sqrt .5
    assert losses.pulling_away(codes).item() == pytest.approx(2 * (0 + 0.5 + 0.5) / 6)
    assert gradcheck(losses.pulling_away, draw(4, 3).requires_grad_())
    with pytest.raises(ValueError, match=r"codes has shape \[1, 3\], expected \[N, D\] with N at least 2"):
        losses.pulling_away(draw(1, 3))


def test_began_keeps_its_balance():
    balance = losses.Began(gamma=0.5, rate=0.1, k=0.2)
    assert balance.discriminator(REAL, FAKE).item() == pytest.approx(2.5 - 0.2 * 6)
    measure = balance.update(REAL, FAKE)
    assert measure.item() == pytest.approx(2.5 + abs(1.25 - 6))
    assert balance.k.item() == 0.0  # 0.2 + 0.1 * (1.25 - 6) is below
    balance.update(REAL * 4, FAKE / 6)
    assert balance.k.item() == pytest.approx(0.1 * (0.5 * 10 - 1))
    balance.update(REAL * 400, FAKE)
    assert balance.k.item() == 1.0
    assert losses.objective("began").discriminator(REAL, FAKE).item() == pytest.approx(2.5 - 6)


def test_began_never_waits_for_the_device():
    """Fake tensors have no numbers to wait for; and a loss keeps the k that it was made with."""
    balance = losses.Began(k=0.5)
    with FakeTensorMode():
        real, fake = torch.rand(3, requires_grad=True), torch.rand(3)
        for _ in range(2):
            balance.discriminator(real, fake)
            measure = balance.update(real, fake)
        assert isinstance(balance.k, torch.Tensor)
        assert not measure.requires_grad
    balance = losses.Began(k=torch.tensor(0.5), rate=0.1)
    error = FAKE.clone().requires_grad_()
    loss = balance.discriminator(REAL, error)
    balance.update(REAL, FAKE)
    loss.backward()
    torch.testing.assert_close(error.grad, torch.full_like(FAKE, -0.5 / 3))


def test_class_head():
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    each = [math.log(math.e + 1 + 1 / math.e) - 1, math.log(2 + math.e**2) - 0]
    expected = sum(each) / 2
    assert losses.acgan(logits, torch.tensor([0, 2])).item() == pytest.approx(expected)
    assert losses.acgan(logits, torch.eye(3)[[0, 2]].double()).item() == pytest.approx(expected)
    assert losses.infogan_categorical(logits, torch.tensor([0, 2]), 0.5).item() == pytest.approx(expected / 2)
    assert gradcheck(lambda x: losses.acgan(x, torch.tensor([0, 2])), logits.requires_grad_())
    with pytest.raises(ValueError, match=r"class_logits has shape \[3\], expected \[N, K\]"):
        losses.acgan(torch.zeros(3), torch.tensor([0]))


def test_continuous_code():
    mean, log_variance, code = draw(3, 2), draw(3, 2, seed=1), draw(3, 2, seed=2)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = -normal.log_prob(code).sum(1).mean() * 0.3
    torch.testing.assert_close(losses.infogan_gaussian(mean, log_variance, code, 0.3), expected)
    assert gradcheck(losses.infogan_gaussian, [t.requires_grad_() for t in (mean, log_variance, code)])
    with pytest.raises(ValueError, match=r"expected one shape \[N, K\]"):
        losses.infogan_gaussian(mean, log_variance[:, :1], code)


def quadratic(seed=0):
    """A discriminator whose gradient is known by hand: x A x^T + b x."""
    net = nn.ParameterDict({"a": draw(3, 3, seed=seed), "b": draw(3, seed=seed + 1)})
    return net, lambda x: ((x @ net["a"]) * x).sum(1) + x @ net["b"]


def test_roth():
    net, d = quadratic()
    real, fake = draw(4, 3, seed=5), draw(5, 3, seed=6)

    def formula():
        total = 0
        for x, real_images in ((real, True), (fake, False)):
            g = x @ (net["a"] + net["a"].t()) + net["b"]
            p = d(x).sigmoid()
            total = total + ((1 - p if real_images else p) ** 2 * (g**2).sum(1)).mean()
        return total * 0.35

    penalty = losses.roth(d, real, fake, 0.7)
    torch.testing.assert_close(penalty, formula())
    torch.testing.assert_close(
        torch.autograd.grad(penalty, list(net.values())), torch.autograd.grad(formula(), list(net.values()))
    )
    with torch.no_grad():
        assert losses.roth(d, real, fake, 0.7).equal(penalty)


def test_consensus_on_the_dirac_gan():
    """Both losses are +-f(theta psi): |v|^2 = f'(theta psi)^2 (theta^2 + psi^2)."""
    theta, psi = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.7, -1.3))
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = -nn.functional.softplus(-theta * psi)
    penalty = losses.consensus([(value, [theta, unused]), (-value, [psi])], gamma=0.4)
    slope = torch.sigmoid(-theta * psi)
    expected = 0.2 * slope**2 * (theta**2 + psi**2)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(torch.autograd.grad(penalty, [theta, psi]), torch.autograd.grad(expected, [theta, psi]))
    with pytest.raises(ValueError, match="no loss depends on its parameters"):
        losses.consensus([(theta * 1, [unused])], 1.0)


def dirac(steps, rate, step):
    theta, psi = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, 0.5))
    for _ in range(steps):
        gradients = step(theta, psi)
        with torch.no_grad():
            theta -= rate * gradients[0]
            psi -= rate * gradients[1]
    return math.hypot(theta.item(), psi.item())


def test_what_makes_the_dirac_gan_converge():
    """Unregularised it spirals outwards; R1, consensus and instance noise pull it in."""

    def game(theta, psi, noise=0.0):
        softplus = nn.functional.softplus
        points = noise * torch.tensor([-1.0, 1.0], dtype=torch.float64)  # of unit variance
        d_loss = softplus(-psi * points).mean() + softplus(psi * (theta + points)).mean()
        return d_loss, -softplus(psi * (theta + points)).mean()  # saturating: the field turns and nothing else

    def plain(theta, psi, noise=0.0):
        d_loss, g_loss = game(theta, psi, noise)
        return *torch.autograd.grad(g_loss, [theta], retain_graph=True), *torch.autograd.grad(d_loss, [psi])

    def r1(theta, psi):
        g, d = plain(theta, psi)
        penalty = losses.r1_penalty(lambda x: (x * psi).flatten(), torch.zeros(1, 1, dtype=torch.float64), 1.0)
        return g, d + torch.autograd.grad(penalty, [psi])[0]

    def conopt(theta, psi):
        d_loss, g_loss = game(theta, psi)
        penalty = losses.consensus([(g_loss, [theta]), (d_loss, [psi])], 1.0)
        (to_theta,) = torch.autograd.grad(g_loss + penalty, [theta], retain_graph=True)
        return to_theta, *torch.autograd.grad(d_loss + penalty, [psi])

    assert dirac(400, 0.1, plain) > math.hypot(1.0, 0.5)
    assert dirac(400, 0.1, r1) < 1e-3
    assert dirac(400, 0.1, conopt) < 1e-3
    assert dirac(400, 0.1, lambda t, p: plain(t, p, 1.0)) < 1e-3


def test_drift_and_smoothing():
    assert losses.drift(torch.tensor([1.0, -3.0]), 0.1).item() == pytest.approx(0.5)
    real, fake = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    p = real.sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(losses.smoothed_logistic(real, fake), expected)
    torch.testing.assert_close(
        losses.smoothed_logistic(real, fake, 1.0), losses.objective("gan").discriminator(real, fake)
    )


def test_instance_noise_and_its_end():
    x = torch.full((200, 50), 2.0)
    noisy = losses.instance_noise(x, 0.5, torch.Generator().manual_seed(0))
    assert noisy.equal(losses.instance_noise(x, 0.5, torch.Generator().manual_seed(0)))
    assert abs(noisy.mean() - 2) < 0.02
    assert abs(noisy.std() - 0.5) < 0.02
    assert losses.instance_noise(x, 0.0) is x
    assert [losses.annealed(0.8, n, 100) for n in (0, 50, 100, 200)] == [0.8, 0.4, 0.0, 0.0]
    with pytest.raises(ValueError, match="sigma is -1, expected 0 or more"):
        losses.instance_noise(x, -1)


def test_orthogonal():
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)  # W W^T = [[5, 11], [11, 25]]
    assert losses.orthogonal([w], 0.5).item() == 0.5 * 2 * 121
    assert losses.orthogonal([w, w], 1.0, diagonal=True).item() == 2 * (16 + 242 + 576)
    assert gradcheck(lambda t: losses.orthogonal([t]), draw(3, 2, 2, 2).requires_grad_())
    net = losses.orthogonal_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 4)), 2.0)
    for layer in net:
        flat = layer.weight.detach().flatten(1)
        torch.testing.assert_close(flat @ flat.t(), 4 * torch.eye(4), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"a weight has shape \[4\], expected two dimensions"):
        losses.orthogonal([net[1].bias])


def test_weight_clipping():
    net = nn.Linear(4, 3)
    losses.clip_weights_(net, 0.05)
    assert max(p.abs().max().item() for p in net.parameters()) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="limit is 0, expected over 0"):
        losses.clip_weights_(net, 0)


@pytest.mark.parametrize("name", ["wgan-gp", "dragan"])
def test_penalties_of_objectives(name):
    _, d = quadratic()
    real, fake = draw(4, 3, seed=5), draw(4, 3, seed=6)
    rng = [torch.Generator().manual_seed(1) for _ in range(2)]
    penalty = losses.objective(name).penalty(d, real, fake, None, rng[0])
    if name == "dragan":
        expected = losses.dragan(d, real, generator=rng[1])
    else:
        expected = losses.wgan_gp(d, real, fake, generator=rng[1])
    assert penalty.equal(expected)
    assert penalty > 0
    assert all((losses.objective(n).penalty is None) == (n not in ("wgan-gp", "dragan")) for n in losses.OBJECTIVES)
