"""Small networks, and plain compositions of the penalties, for their tests."""

import copy

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

import gankernels
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


class Given(nn.Module):
    """A conditional layer within a network that knows its condition."""

    def __init__(self, layer, condition):
        super().__init__()
        self.layer = layer
        self.condition = nn.Parameter(condition)

    def forward(self, x):
        return self.layer(x, self.condition)


@register_linearization(Given)
def _given(m, x):
    return linearize(m.layer, x, m.condition)


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


def usable(request):
    """For a fixture over the backends: forces each one that has the operators."""
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


class Quadratic(nn.Module):
    """x -> sum(weight * x^2) / 2: its gradient is weight * x."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        return (self.weight * x.square()).sum(1) / 2
