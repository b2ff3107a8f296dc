"""Gradient penalties under torch.compile: equal to eager, or refused."""

import copy
import pathlib
import re

import pytest
import torch
from gankernels.models.dcgan import DCGANDiscriminator, DCGANGenerator
from penalty_support import (
    Given,
    Synthesis,
    assert_same,
    assert_same_buffers,
    gradients,
    usable,
)
from torch import nn

from gankernels import _backend
from gankernels.losses import dragan, path_length, r1_penalty, r2_penalty, wgan_gp
from gankernels.nn import (
    SPADE,
    AdaIN,
    BatchNormAct2d,
    BiasAct,
    ConditionalBatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    EqualizedConv2d,
    EqualizedLinear,
    InstanceNormAct2d,
    Linear,
    Maxout,
    MinibatchStdDev,
    SelfAttention,
    linearize,
    linearized,
    register_linearization,
)

backend = pytest.fixture(params=_backend.NAMES)(usable)


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


def normalised():
    """Every normalisation but batch_norm_act's own, in training and in evaluation."""
    batch, spade = ConditionalBatchNorm2d(3, 5, act="lrelu"), SPADE(3, 2, 3, act="swish")
    layers = [InstanceNormAct2d(3, affine=True, act="lrelu"), Given(batch, torch.randn(4, 5))]
    layers += [Given(AdaIN(3, 5), torch.randn(4, 5)), Given(spade.eval(), torch.randn(4, 2, 2, 2))]
    return nn.Sequential(*layers, nn.Flatten(), Linear(768, 1))


class Residual(nn.Module):
    """StyleGAN2's block: two convolutions, the second at half the resolution, beside a 1x1 one."""

    def __init__(self, i, o):
        super().__init__()
        self.skip = EqualizedConv2d(i, o, 1, down=2, bias=False, gain=0.5**0.5)
        inner = EqualizedConv2d(i, o, 3, down=2, act="lrelu", gain=1.0, clamp=256.0)
        self.inner = nn.Sequential(EqualizedConv2d(i, i, 3, act="lrelu", clamp=256.0), inner)

    def forward(self, x):
        return self.skip(x) + self.inner(x)


@register_linearization(Residual)
def _residual(m, x):
    y, skip = linearize(m.skip, x)
    z, inner = linearize(m.inner, x)
    return y + z, linearized.total(skip, inner)


def stylegan2():
    """Its discriminator, of this library's layers, with an attention between."""
    layers = [EqualizedConv2d(3, 8, 1, down=2, act="lrelu"), SelfAttention(8, pool=True), Residual(8, 8)]
    layers += [MinibatchStdDev(2), EqualizedConv2d(9, 8, 3, act="lrelu"), nn.Flatten()]
    return nn.Sequential(*layers, EqualizedLinear(128, 8, act="lrelu"), EqualizedLinear(8, 1))


def lowered(backend):
    """A trace finds what cannot be compiled; lowering it is a matter of our kernels, which reference has none of."""
    return "eager" if backend == "reference" else "aot_eager"


def test_a_stylegan2_discriminator(backend):
    compiled_equals_eager(stylegan2, PENALTIES["r1"], lowered(backend))


@pytest.mark.parametrize("name", ["r1-tangent", "wgan_gp"])
def test_every_normalisation(backend, name):
    compiled_equals_eager(normalised, PENALTIES[name], lowered(backend))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("make", [lambda: DCGANDiscriminator(16, 3, 4), smooth], ids=["dcgan", "smooth"])
def test_compiled_equals_eager(backend, make, name):
    compiled_equals_eager(make, PENALTIES[name], "aot_eager")


def small():
    layers = [Conv2d(3, 4, 4, 4, bias=False), BatchNormAct2d(4, act="lrelu", alpha=0.2), nn.Flatten(), Linear(64, 1)]
    return nn.Sequential(*layers)


def test_inductor_equals_eager(backend):
    compiled_equals_eager(small, PENALTIES["r1"], "inductor")


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
    with pytest.raises(Exception, match=r"cannot draw from a torch\.Generator"):
        torch.compile(lambda x: dragan(network, x, generator=draws), backend="aot_eager", fullgraph=True)(
            torch.randn(2, 1, 16, 16)
        )
