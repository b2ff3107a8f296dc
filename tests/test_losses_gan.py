from math import exp, log1p

import pytest
import torch

from gankernels.losses import OBJECTIVES, objective

REAL, FAKE = [2.0, -1.0, 0.5], [-0.5, 3.0]


def softplus(t):
    return log1p(exp(t))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


LOGISTIC = mean(softplus(-r) for r in REAL) + mean(softplus(f) for f in FAKE)
EXPECTED = {  # name: (discriminator's loss, generator's loss)
    "gan": (LOGISTIC, -mean(softplus(f) for f in FAKE)),
    "gan-ns": (LOGISTIC, mean(softplus(-f) for f in FAKE)),
    "lsgan": (mean([1.0, 4.0, 0.25]) + mean([0.25, 9.0]), mean([2.25, 4.0])),
    "wgan": (1.25 - 0.5, -1.25),
    "wgan-gp": (1.25 - 0.5, -1.25),
    "dragan": (LOGISTIC, mean(softplus(-f) for f in FAKE)),
    "cgan": (LOGISTIC, mean(softplus(-f) for f in FAKE)),
    "infogan": (LOGISTIC, mean(softplus(-f) for f in FAKE)),
    "acgan": (LOGISTIC, mean(softplus(-f) for f in FAKE)),
    "hinge": (mean([0.0, 2.0, 0.5]) + mean([0.5, 4.0]), -1.25),
}


def test_no_objective_of_logits_is_left_out():
    assert set(EXPECTED) == {name for name, game in OBJECTIVES.items() if not game.error}


@pytest.mark.parametrize("name", EXPECTED)
def test_numbers(name):
    game = objective(name)
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    losses = game.discriminator(real, fake), game.generator(fake)
    assert all(loss.shape == () for loss in losses)
    torch.testing.assert_close(
        torch.stack(losses), torch.tensor(EXPECTED[name], dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_minimising_pulls_the_right_way(name):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    game = objective(name)
    to_real, to_fake = torch.autograd.grad(game.discriminator(real + 0.1, fake + 0.1), [real, fake])
    assert (to_real < 0).all()  # descent raises D of real images
    assert (to_fake > 0).all()
    (to_fake,) = torch.autograd.grad(game.generator(fake), [fake])
    assert (to_fake < 0).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_sixteen_bit_logits_are_summed_in_float32(name):
    game = objective(name)
    real, fake = (torch.full((5000,), v, dtype=torch.float16) for v in (60.0, -60.0))
    for loss in (game.discriminator(real, fake), game.generator(fake)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_extreme_logits_stay_finite():
    far = torch.tensor([1e4, -1e4])
    assert objective("gan").discriminator(far, far).isfinite()
    assert objective("gan-ns").generator(far).isfinite()


def test_only_wgan_clips():
    assert {name: objective(name).weight_clip for name in EXPECTED} == {
        n: 0.01 if n == "wgan" else None for n in EXPECTED
    }


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown name 'vanilla', expected one of gan, gan-ns"):
        objective("vanilla")
