"""Gradient penalties against plain `torch.autograd.grad`: values, every parameter gradient, what runs for them."""

import copy
import math

import hypothesis
import pytest
import torch
from gankernels.models.dcgan import DCGANDiscriminator
from gankernels.models.gan import ConvMaxoutDiscriminator, MaxoutDiscriminator, MLPDiscriminator
from hypothesis import strategies as st
from op_tests import Calls
from penalty_support import (
    FORMS,
    Conditional,
    Synthesis,
    assert_same,
    assert_same_buffers,
    discriminators,
    few,
    gradients,
    plain_gradient,
    plain_norm_penalty,
    plain_squared,
    usable,
)
from torch import nn

import gankernels
from gankernels import _backend
from gankernels.losses import dragan, path_length, r1_penalty, r2_penalty, wgan_gp
from gankernels.nn import (
    BiasAct,
    Conv2d,
    Linear,
)

backend = pytest.fixture(params=_backend.NAMES)(usable)


@pytest.mark.parametrize("form", FORMS)
@few
@hypothesis.given(discriminators(), st.integers(1, 4), st.floats(0.01, 20))
def test_r1_of_random_discriminators(backend, form, drawn, n, gamma):
    network, seed = drawn
    torch.manual_seed(seed)
    x = torch.randn(n + 1, 3, 7, 6, dtype=torch.float64)
    ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
    with gankernels.backend("reference"):
        truth = gradients(plain_squared(theirs, x, gamma), theirs)
    assert_same(gradients(r1_penalty(ours, x, gamma, form=form), ours), truth)
    assert_same_buffers(ours, theirs)


@pytest.mark.parametrize("form", FORMS[:2])
@pytest.mark.parametrize("sided", [1, 2])
@few
@hypothesis.given(discriminators(), st.floats(0, 2))
def test_wgan_gp_and_dragan_of_random_discriminators(backend, form, sided, drawn, target):
    network, seed = drawn
    torch.manual_seed(seed)
    real, fake, noise = torch.randn(3, 3, 3, 7, 6, dtype=torch.float64)
    mix = torch.rand(3, dtype=torch.float64)
    weight = mix.reshape(3, 1, 1, 1)
    ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
    with gankernels.backend("reference"):
        between = weight * real + (1 - weight) * fake
        truth = gradients(plain_norm_penalty(theirs, between, 10.0, sided, target), theirs)
        around = gradients(plain_norm_penalty(theirs, real + noise, 10.0, 2, target), theirs)
    penalty = wgan_gp(ours, real, fake, sided=sided, target=target, mix=mix, form=form)
    assert_same(gradients(penalty, ours), truth)
    assert_same(gradients(dragan(ours, real, target=target, noise=noise, form=form), ours), around)
    assert_same_buffers(ours, theirs)


@pytest.mark.parametrize("form", FORMS[:2])
@few
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 1), st.booleans())
def test_path_length_of_random_generators(backend, form, seed, n, decay, mapped):
    torch.manual_seed(seed)
    network = Synthesis().double()
    mapping = nn.Linear(4, 6).double()
    z, noise = torch.randn(n, 4, dtype=torch.float64), torch.randn(n, 3, 4, 5, dtype=torch.float64)
    start = torch.rand(1, dtype=torch.float64)

    def ws():
        w = mapping(z).unflatten(1, (2, 3))
        return w if mapped else w.detach()

    more = list(mapping.parameters()) if mapped else []
    with gankernels.backend("reference"):
        g = plain_gradient(network, ws(), cotangent=noise / math.sqrt(4 * 5))
        lengths = g.square().sum(2).mean(1).sqrt()
        target = start + decay * (lengths.mean().detach() - start)
        truth = gradients(2 * (lengths - target).square().mean(), network, *more)
    mean = start.clone()
    assert_same(gradients(path_length(network, ws(), mean, decay=decay, noise=noise, form=form), network, *more), truth)
    torch.testing.assert_close(mean, target)


@pytest.mark.parametrize("form", FORMS)
def test_conditional(backend, form):
    network = Conditional().double()
    x, c = torch.randn(3, 3, 5, 5, dtype=torch.float64), torch.tensor([4, 0, 2])
    with gankernels.backend("reference"):
        truth = gradients(plain_squared(network, x, 4.0, c), network)
    assert_same(gradients(r2_penalty(network, x, 4.0, c, form=form), network), truth)
    if form == "tangent":
        return
    noise, mix = torch.randn_like(x), torch.tensor([0.3, 0.0, 1.0], dtype=torch.float64)
    with gankernels.backend("reference"):
        around = gradients(
            10 * (plain_gradient(network, x + noise, c).flatten(1).norm(dim=1) - 1).square().mean(), network
        )
    assert_same(gradients(dragan(network, x, c=c, noise=noise, form=form), network), around)
    assert_same(gradients(wgan_gp(network, x + noise, x + noise, c=c, mix=mix, form=form), network), around)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: DCGANDiscriminator(16, 3, 4),
        lambda: ConvMaxoutDiscriminator(16, 3, (2, 2, 4), 5),
        lambda: MLPDiscriminator(16, 3, (6, 5)),
        lambda: MaxoutDiscriminator(16, 3, (4, 4)),
    ],
    ids=["dcgan", "conv-maxout", "mlp", "maxout"],
)
def test_discriminators_of_the_models(backend, form, make):
    ours = make().double()
    theirs = copy.deepcopy(ours)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(1)  # of dropout
    with gankernels.backend("reference"):
        truth = gradients(plain_squared(theirs, x, 10.0), theirs)
    torch.manual_seed(1)
    assert_same(gradients(r1_penalty(ours, x, 10.0, form=form), ours), truth)
    assert_same_buffers(ours, theirs)


def test_draws_come_from_the_generator():
    d = DCGANDiscriminator(16, 1, 2).eval()
    real, fake = torch.randn(2, 2, 1, 16, 16)
    for f in (lambda g: wgan_gp(d, real, fake, generator=g), lambda g: dragan(d, real, generator=g)):
        state = torch.random.get_rng_state()
        first = f(torch.Generator().manual_seed(1))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(f(torch.Generator().manual_seed(1)), first)
        assert not torch.equal(f(torch.Generator().manual_seed(2)), first)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(backend, form):
    network = nn.Sequential(Conv2d(1, 2, 2), BiasAct("tanh", num_features=2), nn.Flatten(), Linear(8, 1)).double()
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    original = [p.detach().clone().requires_grad_() for p in network.parameters()]
    if form == "double_backward":
        penalties = [
            lambda *v: r1_penalty(lambda x: functional(network, v, x), x, 3.0),
            lambda *v: wgan_gp(lambda x: functional(network, v, x), x, x + 1, mix=torch.tensor([0.2, 0.7]).double()),
        ]
        for f in penalties:
            assert torch.autograd.gradcheck(f, original)
        return
    loss = r1_penalty(network, x, 3.0, form=form)
    analytic = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    for p, g in zip(network.parameters(), analytic, strict=True):
        for i in range(min(3, p.numel())):
            flat = p.detach().view(-1)
            flat[i] += 1e-5
            up = r1_penalty(network, x, 3.0).item()
            flat[i] -= 2e-5
            down = r1_penalty(network, x, 3.0).item()
            flat[i] += 1e-5
            assert g.view(-1)[i].item() == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


def functional(network, values, x):
    names = [n for n, _ in network.named_parameters()]
    return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))


def test_nothing_that_is_not_asked_for(backend):
    """The penalty itself computes no parameter's gradient; its backward computes those of what is trained alone."""
    if backend == "reference":
        pytest.skip("reference leaves pruning to PyTorch")
    network = DCGANDiscriminator(16, 3, 4)
    x = torch.randn(2, 3, 16, 16)
    for form in FORMS:
        with Calls() as calls:
            loss = r1_penalty(network, x, 10.0, form=form)
        assert not any("weight_grad" in name for name in calls.names()), form
        assert all(not any(a["wanted"][1:]) for n, a in calls.seen if n.endswith("batch_norm_act_backward")), form
        with Calls() as calls:
            torch.autograd.grad(loss, network.main[0].weight)
        assert sum("weight_grad" in name for name, _ in calls.seen) <= 2, form


def test_double_backward_stays_on_our_kernels(backend):
    if backend == "reference":
        pytest.skip("reference is plain PyTorch")
    network = DCGANDiscriminator(16, 3, 4)
    with Calls() as calls:
        r1_penalty(network, torch.randn(2, 3, 16, 16), 10.0).backward()
    foreign = ("convolution", "batch_norm", "leaky_relu", "norm", "pow", "square")
    assert not [n for n in calls.names() if n.startswith("aten") and any(f in n for f in foreign)]
    assert any("sum_squares_per_sample" in n for n in calls.names())
    assert any("batch_norm_act_double_backward" in n for n in calls.names())


def test_inputs_are_detached_and_grad_mode_is_kept(backend):
    network = DCGANDiscriminator(16, 1, 2).eval()
    real, fake = (torch.randn(2, 1, 16, 16, requires_grad=True) for _ in range(2))
    for form in FORMS[:2]:
        loss = wgan_gp(network, real, fake, form=form)
        assert torch.autograd.grad(loss, [real, fake], allow_unused=True) == (None, None)
    with torch.no_grad():
        for form in FORMS:
            loss = r1_penalty(network, real, 10.0, form=form)
            assert not loss.requires_grad
            assert loss > 0
    for p in network.parameters():
        assert p.grad is None


@pytest.mark.parametrize("form", FORMS)
def test_autocast_and_half(backend, form):
    network = DCGANDiscriminator(16, 3, 4).eval()
    x = torch.randn(4, 3, 16, 16)
    truth = r1_penalty(network, x, 10.0)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        loss = r1_penalty(network, x, 10.0, form=form)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, truth, rtol=0.1, atol=0)
    half = r1_penalty(network.bfloat16(), x.bfloat16(), 10.0, form=form)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, truth, rtol=0.1, atol=0)


def test_a_gradient_of_zero_has_finite_derivatives(backend):
    network = nn.Sequential(nn.Flatten(), Linear(4, 3, act="relu"), Linear(3, 1)).double()
    nn.init.constant_(network[1].bias, -100.0)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    loss = wgan_gp(network, x, x)
    assert loss.item() == 10
    assert all(g.eq(0).all() for g in gradients(loss, network)[1:])
