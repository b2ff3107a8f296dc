"""Gradient penalties against plain `torch.autograd.grad`: values, every parameter gradient, compiled and not."""

import copy
import math
import pathlib
import re

import hypothesis
import pytest
import torch
from gankernels.models.dcgan import DCGANDiscriminator, DCGANGenerator
from gankernels.models.gan import ConvMaxoutDiscriminator, MaxoutDiscriminator, MLPDiscriminator
from hypothesis import strategies as st
from op_tests import Calls
from torch import nn

import gankernels
from gankernels import _backend
from gankernels.losses import dragan, path_length, r1_penalty, r2_penalty, wgan_gp
from gankernels.nn import (
    BatchNormAct2d,
    BiasAct,
    Conv2d,
    ConvTranspose2d,
    Linear,
    Maxout,
    linearize,
    linearized,
    register_linearization,
)

FORMS = ("double_backward", "adjoint", "tangent")
NEEDS = ("conv2d", "conv_transpose2d", "bias_act", "bias_act_adjoint", "batch_norm_act_adjoint", "norm_per_sample")


class Conditional(nn.Module):
    """A projection discriminator (Miyato and Koyama 2018): <embedding[c], features> beside the logit."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(Conv2d(3, 4, 3, 2), BiasAct("swish", num_features=4), nn.Flatten())
        self.embedding = nn.Parameter(torch.randn(5, 16))

    def forward(self, x, c):
        return (self.features(x) * self.embedding[c]).sum(1, keepdim=True)


@register_linearization(Conditional)
def _conditional(m, x, c):
    y, inner = linearize(m.features, x)
    w = m.embedding[c]
    last = linearized.Linearization(lambda t: (t * w).sum(1, keepdim=True), lambda g: g * w)
    return (y * w).sum(1, keepdim=True), linearized.chain(inner, last)


class Synthesis(nn.Module):
    """[N, 2, 3] -> images [N, 3, 4, 5]."""

    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Flatten(), Linear(6, 20, act="tanh"), nn.Unflatten(1, (5, 2, 2)), ConvTranspose2d(5, 3, (2, 3), 2),
            BiasAct("swish", num_features=3),
        )  # fmt: skip

    def forward(self, ws):
        return self.main(ws)


@register_linearization(Synthesis)
def _synthesis(m, ws):
    return linearize(m.main, ws)


def plain_gradient(network, x, c=None, cotangent=None):
    x = x if x.requires_grad else x.detach().requires_grad_()
    y = network(x) if c is None else network(x, c)
    y = y.sum() if cotangent is None else (y * cotangent).sum()
    return torch.autograd.grad(y, x, create_graph=True)[0]


def plain_squared(network, x, gamma, c=None):
    return gamma / 2 * plain_gradient(network, x, c).square().sum(list(range(1, x.ndim))).mean()


def plain_norm_penalty(network, x, weight, sided=2, target=1.0):
    off = plain_gradient(network, x).flatten(1).norm(dim=1) - target
    return weight * (off.clamp(min=0) if sided == 1 else off).square().mean()


def gradients(loss, network, *more):
    wanted = [*network.parameters(), *more]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [loss.detach(), *grads]


def assert_same(ours, theirs, rtol=1e-10):
    """Scalar and gradients to rounding: a bias before batch norm has a gradient of 0, the sum of large ones."""
    atol = rtol * max(1.0, *(b.abs().max().item() for b in theirs))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda m, i=i: f"result {i}: {m}")


def assert_same_buffers(ours, theirs):
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture(params=_backend.NAMES)
def backend(request):
    name = request.param
    for op in NEEDS:
        reason = gankernels.why_not(name, "cpu", op)
        if reason:
            pytest.skip(f"{name}: {reason}")
    with gankernels.backend(name):
        yield name


ACTS = ("relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@st.composite
def discriminators(draw):
    """A small discriminator of [N, 3, 7, 6] in float64, and a seed."""
    seed = draw(st.integers(0, 10**6))
    torch.manual_seed(seed)
    layers, channels, act = [], 3, lambda: draw(st.sampled_from(ACTS))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["conv", "same", "transpose"]))
        kernel, out = draw(st.integers(1, 2)), draw(st.sampled_from([2, 4]))
        if kind == "conv":
            layers.append(Conv2d(channels, out, kernel, draw(st.integers(1, 2)), 1, bias=draw(st.booleans())))
        elif kind == "same":
            layers.append(Conv2d(channels, out, kernel, padding="same"))
        else:
            layers.append(ConvTranspose2d(channels, out, kernel, 2, output_padding=draw(st.integers(0, 1))))
        channels = out
        after = draw(st.sampled_from(["bias_act", "norm", "norm_eval", "maxout", "none"]))
        if after == "bias_act":
            layers.append(BiasAct(act(), num_features=channels, gain=draw(st.sampled_from([1.0, 1.4]))))
        elif after.startswith("norm"):
            layers.append(BatchNormAct2d(channels, act=act(), affine=draw(st.booleans())).train(after == "norm"))
        elif after == "maxout":
            layers.append(Maxout(2))
            channels //= 2
    network = nn.Sequential(*layers, nn.Flatten())
    network = network.double()
    eval_norms = [m for m in network if isinstance(m, BatchNormAct2d) and not m.training]
    for m in eval_norms:
        nn.init.uniform_(m.running_var, 0.5, 2.0)
    size = copy.deepcopy(network)(torch.randn(2, 3, 7, 6, dtype=torch.float64)).shape[1]
    network.extend([Linear(size, 3, act=act()), Linear(3, 1)]).double()
    for p in network.parameters():
        nn.init.normal_(p, std=0.5)
    return network, seed


few = hypothesis.settings(
    max_examples=12, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True
)


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


PENALTIES = {
    "r1": lambda d, a, b: r1_penalty(d, a, 10.0),
    "r1-tangent": lambda d, a, b: r1_penalty(d, a, 10.0, form="tangent"),
    "r2": lambda d, a, b: r2_penalty(d, b, 10.0),
    "wgan_gp": lambda d, a, b: wgan_gp(d, a, b, sided=1, target=0.01),
    "dragan": lambda d, a, b: dragan(d, a),
}


def smooth():
    layers = [Conv2d(3, 6, 3, 2, 1), BiasAct("swish", num_features=6), ConvTranspose2d(6, 4, 3, 2, 1, 1)]
    layers += [BatchNormAct2d(4, act="tanh"), Conv2d(4, 4, 3, padding="same"), Maxout(2), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Flatten(), Linear(512, 5, act="softplus"), Linear(5, 1))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("make", [lambda: DCGANDiscriminator(16, 3, 4), smooth], ids=["dcgan", "smooth"])
def test_compiled_equals_eager(backend, make, name):
    compiled_equals_eager(make, PENALTIES[name], "aot_eager")


def test_inductor_equals_eager(backend):
    compiled_equals_eager(lambda: DCGANDiscriminator(16, 3, 4), PENALTIES["r1"], "inductor")


def compiled_equals_eager(make, penalty, compiler):
    ours = make().double()
    theirs = copy.deepcopy(ours)
    a, b = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, b: penalty(ours, a, b), backend=compiler, fullgraph=True)
    for step in range(2):
        torch.manual_seed(step)
        truth = gradients(penalty(theirs, a, b), theirs)
        torch.manual_seed(step)
        assert_same(gradients(compiled(a, b), ours), truth)
        assert_same_buffers(ours, theirs)


@pytest.mark.parametrize("make", [Synthesis, lambda: DCGANGenerator(16, 3, 4, 6)], ids=["dense", "dcgan"])
def test_compiled_path_length_equals_eager(backend, make):
    ours = make().double()
    theirs = copy.deepcopy(ours)
    ws = torch.randn(3, 2, 3, dtype=torch.float64) if make is Synthesis else torch.randn(3, 6, dtype=torch.float64)
    means = [torch.zeros(1, dtype=torch.float64) for _ in range(2)]
    torch._dynamo.reset()
    compiled = torch.compile(lambda ws, mean: path_length(ours, ws, mean), backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    truth = gradients(path_length(theirs, ws, means[0]), theirs)
    torch.manual_seed(0)
    assert_same(gradients(compiled(ws, means[1]), ours), truth)
    torch.testing.assert_close(*means)
    assert means[0] > 0
    assert_same_buffers(ours, theirs)


def test_the_documents_example_runs():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "penalties.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    names = {}
    torch._dynamo.reset()
    exec(code.replace("fullgraph=True", "fullgraph=True, backend='aot_eager'"), names)
    assert names["D"][0].inner[0].weight.grad.abs().sum() > 0


# By hand.


class Quadratic(nn.Module):
    """x -> sum(weight * x^2) / 2: its gradient is weight * x."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return (self.weight * x.square()).sum(1) / 2


def test_r1_and_r2_by_hand():
    d = Quadratic([1.0, 2.0])
    x = torch.tensor([[3.0, 2.0], [1.0, 0.0]])  # gradients [3, 4] and [1, 0]: squares 25 and 1
    for penalty in (r1_penalty, r2_penalty):
        loss = penalty(d, x, 10.0)
        assert loss.item() == 10 / 2 * (25 + 1) / 2
        (g,) = torch.autograd.grad(loss, d.weight)
        assert g.tolist() == [10 / 2 * (2 * 9 + 2 * 1) / 2, 10 / 2 * (2 * 2 * 4) / 2]
        assert penalty(d, x, 0).item() == 0


def test_wgan_gp_by_hand():
    d = Quadratic([1.0, 1.0])
    real, fake = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    mix = torch.tensor([1.0, 0.25])  # points (3, 4), norm 5, and (0, 1.5), norm 1.5
    assert wgan_gp(d, real, fake, mix=mix).item() == 10 * (16 + 0.25) / 2
    assert wgan_gp(d, real, fake, mix=mix, target=2.0).item() == 10 * (9 + 0.25) / 2
    assert wgan_gp(d, real, fake, mix=mix, target=2.0, sided=1).item() == 10 * 9 / 2
    assert wgan_gp(d, real, fake, 1.0, 1, 6.0, mix=mix).item() == 0


def test_dragan_by_hand():
    d = Quadratic([1.0, 1.0])
    assert dragan(d, torch.tensor([[1.0, 4.0]]), noise=torch.tensor([[2.0, 0.0]])).item() == 10 * 16
    real = torch.tensor([[1.0, 3.0], [1.0, 3.0]])  # standard deviation 1
    draws = torch.Generator().manual_seed(3)
    a, u = torch.rand(2, generator=draws), torch.rand(2, 2, generator=draws)
    points = real + a[:, None] * 0.25 * u
    expected = 10 * (points.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(dragan(d, real, spread=0.25, generator=draws.manual_seed(3)), expected)


def test_path_length_by_hand():
    def synthesis(ws):  # [1, 2, 1] -> [1, 1, 1, 4]: pixels 4 w0, 0, 0, 2 w1
        zero = torch.zeros_like(ws[:, :1])
        return torch.cat([4 * ws[:, :1], zero, zero, 2 * ws[:, 1:]], 1).reshape(1, 1, 1, 4)

    mean = torch.tensor([10.0])
    # noise 3, ., ., 8 over sqrt(4): gradients 6 and 8; the mean of their squares is 50
    noise = torch.tensor([3.0, 1.0, 1.0, 8.0]).reshape(1, 1, 1, 4)
    loss = path_length(synthesis, torch.ones(1, 2, 1), mean, 3.0, 0.5, noise=noise)
    length = math.sqrt(50)
    torch.testing.assert_close(mean, torch.tensor([(10 + length) / 2]))
    torch.testing.assert_close(loss, torch.tensor(3 * (length - (10 + length) / 2) ** 2))
    path_length(synthesis, torch.ones(1, 2, 1), mean, 3.0, 0.0, noise=noise)
    torch.testing.assert_close(mean, torch.tensor([(10 + length) / 2]))


def test_draws_come_from_the_generator():
    d = DCGANDiscriminator(16, 1, 2).eval()
    real, fake = torch.randn(2, 2, 1, 16, 16)
    for f in (lambda g: wgan_gp(d, real, fake, generator=g), lambda g: dragan(d, real, generator=g)):
        state = torch.random.get_rng_state()
        first = f(torch.Generator().manual_seed(1))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(f(torch.Generator().manual_seed(1)), first)
        assert not torch.equal(f(torch.Generator().manual_seed(2)), first)


# Derivatives, pruning, kernels.


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


# Refusals.


def test_what_would_be_wrong_is_refused():
    network = DCGANDiscriminator(16, 1, 2).eval()
    x = torch.randn(2, 1, 16, 16)
    with pytest.raises(RuntimeError, match=r"r1_penalty: cannot run inside torch.func"):
        torch.func.grad(lambda x: r1_penalty(network, x, 1.0))(x)
    with pytest.raises(RuntimeError, match=r"r1_penalty: cannot run inside torch.func"):
        torch.func.vmap(lambda x: r1_penalty(network, x, 1.0))(x[None])
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch.no_grad\(\)"):
        r1_penalty(network, x, 1.0)
    with pytest.raises(RuntimeError, match="the network is compiled"):
        r1_penalty(torch.compile(network, backend="aot_eager"), x, 1.0)
    in_place = copy.deepcopy(network)
    in_place.compile(backend="aot_eager")
    with pytest.raises(RuntimeError, match="the network is compiled"):
        dragan(in_place, x)
    with pytest.raises(TypeError, match="GELU has no rule"):
        r1_penalty(nn.Sequential(nn.GELU(), nn.Flatten(), Linear(256, 1)), x, 1.0, form="adjoint")
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got function"):
        r1_penalty(lambda x: x.flatten(1).sum(1), x, 1.0, form="tangent")


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda d, x: torch.func.grad(lambda x: r1_penalty(d, x, 1.0))(x), "cannot run inside torch.func"),
        (lambda d, x: r1_penalty(d, x, 1.0, form="double_backward"), "torch.compile has no second derivative"),
        (lambda d, x: dragan(nn.Sequential(nn.GELU(), *d.main), x), "has no rule for its derivative"),
        (lambda d, x: r1_penalty(lambda x: d(x), x, 1.0), "needs a torch.nn.Module"),
    ],
    ids=["torch.func", "double_backward", "no rule", "function"],
)
def test_refused_under_compile(f, message):
    network = DCGANDiscriminator(16, 1, 2).eval()
    torch._dynamo.reset()
    with pytest.raises(Exception, match=message):
        torch.compile(lambda x: f(network, x), backend="aot_eager", fullgraph=True)(torch.randn(2, 1, 16, 16))


def test_a_generator_is_refused_under_compile():
    network = DCGANDiscriminator(16, 1, 2).eval()
    torch._dynamo.reset()
    draws = torch.Generator()
    with pytest.raises(Exception, match=r"cannot draw from a torch.Generator|Generator"):
        torch.compile(lambda x: dragan(network, x, generator=draws), backend="aot_eager", fullgraph=True)(
            torch.randn(2, 1, 16, 16)
        )


def test_bad_arguments():
    d = Quadratic([1.0, 1.0])
    x, ws, mean = torch.randn(2, 2), torch.randn(2, 2, 2), torch.zeros(1)

    def images(ws):
        return ws.reshape(2, 1, 2, 2) * 1.0

    cases = [
        (lambda: r1_penalty(d, x, -1.0), "r1_penalty: gamma is -1.0, expected 0 or more"),
        (lambda: r1_penalty(d, x, math.inf), "r1_penalty: gamma is inf"),
        (lambda: r2_penalty(d, x, math.nan), "r2_penalty: gamma is nan"),
        (lambda: r1_penalty(d, x.int(), 1.0), "r1_penalty: real has dtype torch.int32"),
        (lambda: r2_penalty(d, [1.0], 1.0), "r2_penalty: fake is list"),
        (lambda: r1_penalty(d, x[:0], 1.0), r"r1_penalty: real has shape \[0, 2\], .* not empty"),
        (lambda: r1_penalty(d, x[0], 1.0), r"r1_penalty: real has shape \[2\]"),
        (lambda: r1_penalty(d, x, 1.0, form="forward"), "r1_penalty: form is 'forward', expected 'double_backward'"),
        (lambda: wgan_gp(d, x, x, form="tangent"), "wgan_gp: form is 'tangent'"),
        (lambda: r1_penalty(lambda x: x, x, 1.0), r"returned shape \[2, 2\], expected one number a sample, \[2\]"),
        (lambda: r1_penalty(lambda x: x.sum(), x, 1.0), r"returned shape \[\], expected one number a sample"),
        (lambda: r1_penalty(lambda x: x.sum(1)[:, None, None], x[:1].expand(3, 2), 1.0), None),
        (lambda: r1_penalty(lambda x: [x], x, 1.0), "the discriminator's output is list"),
        (lambda: r1_penalty(lambda x: torch.ones(2), x, 1.0), "does not depend on its input"),
        (lambda: r1_penalty(lambda x: d.weight, x, 1.0), "does not depend on its input"),
        (lambda: wgan_gp(d, x, x[:1]), r"wgan_gp: fake has shape \[1, 2\], expected \[2, 2\]"),
        (lambda: wgan_gp(d, x, x.double()), "wgan_gp: fake has dtype torch.float64"),
        (lambda: wgan_gp(d, x, x, -1.0), "wgan_gp: weight is -1.0"),
        (lambda: wgan_gp(d, x, x, sided=3), "wgan_gp: sided is 3, expected 1 or 2"),
        (lambda: wgan_gp(d, x, x, target=-0.5), "wgan_gp: target is -0.5"),
        (lambda: wgan_gp(d, x, x, mix=torch.rand(2, 1)), r"wgan_gp: mix has shape \[2, 1\], expected \[2\]"),
        (lambda: dragan(d, x, math.inf), "dragan: weight is inf"),
        (lambda: dragan(d, x, spread=-1.0), "dragan: spread is -1.0"),
        (lambda: dragan(d, x, noise=torch.zeros(2)), r"dragan: noise has shape \[2\], expected \[2, 2\]"),
        (lambda: path_length(images, ws[0, 0], mean), r"path_length: ws has shape \[2\]"),
        (lambda: path_length(images, ws, torch.zeros(())), r"path_length: mean is torch.float32 \[\]"),
        (lambda: path_length(images, ws, mean.half()), "path_length: mean is torch.float16"),
        (lambda: path_length(images, ws, mean.clone().requires_grad_()), "requires grad, expected a buffer"),
        (lambda: path_length(images, ws, 0.0), "path_length: mean is float"),
        (lambda: path_length(images, ws, mean, decay=1.5), "path_length: decay is 1.5"),
        (lambda: path_length(images, ws, mean, noise=torch.zeros(2)), r"path_length: noise has shape \[2\]"),
        (lambda: path_length(lambda ws: ws, ws, mean), r"the generator returned shape \[2, 2, 2\]"),
    ]
    for f, message in cases:
        if message is None:
            assert f().item() == pytest.approx(1.0)
            continue
        with pytest.raises(ValueError, match=message):
            f()
    assert mean.item() == 0
