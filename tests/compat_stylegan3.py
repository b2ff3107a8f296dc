"""The script of a small repository that keeps its operators in torch_utils.ops; test_compat.py copies it and runs it.

Arguments: the folder of golden_cases.py.
"""

import sys

import torch
import torch_utils.ops.upfirdn2d
from torch import nn
from torch_utils import misc
from torch_utils.ops import (
    bias_act,
    conv2d_gradfix,
    conv2d_resample,
    filtered_lrelu,
    fma,
    grid_sample_gradfix,
    mine,
    upfirdn2d,
)

sys.path.append(sys.argv[1])
from golden_cases import CASES, _draw, check_kept

F = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
F2, F6 = _draw(3, 2, seed=9).float(), _draw(6, seed=11).float()


def calls(impl):
    """Case of golden_cases: the same call in the published signature, some of it by position."""
    for act, clamp in (("lrelu", None), ("swish", 1.0), ("tanh", None), ("elu", 0.8), ("softplus", None)):
        yield (
            f"bias_act_{act}",
            lambda x, b, act=act, clamp=clamp: bias_act.bias_act(x, b, 1, act, None, None, clamp, impl),
        )
    for name, settings in {
        "up": (2, 1, [2, 1, 2, 1], False, 4),
        "down": (1, 2, 1),
        "both": ([2, 3], [3, 1], [3, -1, 2, 2], True, -1.5),
    }.items():
        for suffix, f in (("", F), ("_full", F2)):
            yield (
                f"upfirdn2d_{name}{suffix}",
                lambda x, f=f, settings=settings: upfirdn2d.upfirdn2d(x, f, *settings, impl=impl),
            )
    for name in ("filter2d", "upsample2d", "downsample2d"):
        yield name, lambda x, name=name: getattr(upfirdn2d, name)(x=x, f=F, impl=impl)
    yield (
        "filtered_lrelu_separable",
        lambda x, b: filtered_lrelu.filtered_lrelu(x=x, fu=F6, fd=F6, b=b, up=2, down=2, padding=[5, 4, 5, 6]),
    )
    yield (
        "filtered_lrelu_full",
        lambda x, b: filtered_lrelu.filtered_lrelu(x, F6, F2, b, 4, 3, 4, 1.2, 0.1, 0.8, True, impl),
    )
    yield (
        "filtered_lrelu_up",
        lambda x, b: filtered_lrelu.filtered_lrelu(x, F6, None, b, [2, 1], 1, [3, 3, 4, 3], slope=-0.5, impl=impl),
    )
    yield "conv2d", lambda x, w: conv2d_gradfix.conv2d(input=x, weight=w, stride=2, padding=1)
    yield "conv_transpose2d", lambda x, w, b: conv2d_gradfix.conv_transpose2d(x, w, b, 2, 1)
    for name, settings in {
        "up": (2, 1, 1),
        "down": (1, 2, 1, 1, False),
        "both": (2, [3, 2], [1, 2, 0, 1], 1, True, True),
    }.items():
        yield (
            f"conv2d_resample_{name}",
            lambda x, w, settings=settings: conv2d_resample.conv2d_resample(x, w, F2, *settings),
        )


def check_golden_numbers():
    for impl in ("cuda", "ref"):
        for name, f in calls(impl):
            check_kept(name, (f, CASES[name][1]))


class Layer(nn.Module):
    """A modulated convolution for all samples at once, in groups, and its activation; a resampling filter."""

    def __init__(self, channels, up=1):
        super().__init__()
        self.up = up
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.gain = bias_act.activation_funcs["lrelu"].def_gain

    def forward(self, x, s):
        n, c, h, w = x.shape
        weight = self.weight[None] * s[:, None, :, None, None]
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        x = conv2d_resample.conv2d_resample(
            x.reshape(1, n * c, h, w), weight.reshape(n * c, c, 3, 3), self.resample_filter,
            up=self.up, padding=1, groups=n, flip_weight=self.up == 1,
        )  # fmt: skip
        return bias_act.bias_act(x.reshape(n, c, *x.shape[2:]), self.bias, act="lrelu", gain=self.gain, clamp=256)


class Discriminator(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Parameter(torch.randn(channels, channels, 3, 3) / 10)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("f", upfirdn2d.setup_filter([1, 2, 1]))

    def forward(self, x):
        x = bias_act.bias_act(conv2d_gradfix.conv2d(x, self.conv, padding=1), self.bias.to(x.dtype), act="swish")
        x = upfirdn2d.downsample2d(x, self.f)
        x = conv2d_resample.conv2d_resample(x, self.conv, self.f, down=2, padding=1)
        return fma.fma(x, x, self.bias[:, None, None]).mean([1, 2, 3])


def check_a_step_of_training():
    for init in (bias_act._init, upfirdn2d._init, filtered_lrelu._init):
        init()
    conv2d_gradfix.enabled = grid_sample_gradfix.enabled = True
    generator, discriminator = Layer(4, up=2).double(), Discriminator(4).double()
    x, s = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    fake = generator(x, s)
    assert fake.shape == (2, 4, 12, 12)
    discriminator(fake).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())
    discriminator.zero_grad()

    real = x.requires_grad_()
    logits = discriminator(real)
    with conv2d_gradfix.no_weight_gradients():
        (g,) = torch.autograd.grad(logits.sum(), [real], create_graph=True, only_inputs=True)
    g.square().sum().backward()
    assert discriminator.conv.grad.abs().sum() > 0, "no gradient of the penalty in the weight"
    expected = discriminator.conv.grad.clone()
    discriminator.zero_grad()
    with conv2d_gradfix.no_weight_gradients(disable=False):
        (g,) = torch.autograd.grad(discriminator(real).sum(), [real], create_graph=True)
    g.square().sum().backward()
    torch.testing.assert_close(discriminator.conv.grad, expected, rtol=0, atol=0)
    discriminator.zero_grad()
    logits = discriminator(real)
    with conv2d_gradfix.no_weight_gradients():
        logits.sum().backward()
    assert discriminator.conv.grad is None
    assert discriminator.bias.grad.abs().sum() > 0


def check_every_order():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def network(x, w):
        y = conv2d_resample.conv2d_resample(x, w, F, up=2, padding=1)
        return bias_act.bias_act(upfirdn2d.downsample2d(conv2d_gradfix.conv2d(y, w), F), act="tanh")

    def gradient(x, w):
        return torch.autograd.grad(network(x, w).square().sum(), [x, w], create_graph=True)

    assert torch.autograd.gradcheck(network, (x, w))
    assert torch.autograd.gradgradcheck(network, (x, w))
    assert torch.autograd.gradgradcheck(gradient, (x, w), atol=1e-4)  # third
    a, b, c = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (3, 1), (4,)))
    torch.testing.assert_close(fma.fma(a, b, c), a * b + c)
    assert torch.autograd.gradgradcheck(fma.fma, (a, b, c))

    grid = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    sampled = grid_sample_gradfix.grid_sample(input=x, grid=grid)
    torch.testing.assert_close(sampled, nn.functional.grid_sample(x, grid, align_corners=False))
    assert torch.autograd.gradcheck(grid_sample_gradfix.grid_sample, (x, grid))
    assert torch.autograd.gradgradcheck(grid_sample_gradfix.grid_sample, (x, grid))


def check_the_rest():
    assert misc.mark == mine.mark == "the user's"
    assert torch_utils.ops.upfirdn2d is upfirdn2d
    for module in (bias_act, conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix, upfirdn2d):
        assert module.__name__.startswith("torch_utils.ops."), module
        assert "gankernels" in module.__file__, module
    published = {
        "linear": (0, 1), "relu": (0, 2**0.5), "lrelu": (0.2, 2**0.5), "tanh": (0, 1), "sigmoid": (0, 1),
        "elu": (0, 1), "selu": (0, 1), "softplus": (0, 1), "swish": (0, 2**0.5),
    }  # fmt: skip
    assert {k: (f.def_alpha, f.def_gain) for k, f in bias_act.activation_funcs.items()} == published
    assert upfirdn2d.setup_filter([1, 3, 3, 1], device=torch.device("cpu")).shape == (4, 4)
    assert upfirdn2d.setup_filter(range(1, 9), separable=True).shape == (8,)
    try:
        bias_act.bias_act(torch.ones(1, 1), impl="nvcc")
    except ValueError as error:
        assert "impl is 'nvcc'" in str(error)  # noqa: PT017
    else:
        raise AssertionError("impl took any word")


if __name__ == "__main__":
    torch.manual_seed(0)
    check_golden_numbers()
    check_a_step_of_training()
    check_every_order()
    check_the_rest()
    print("unchanged")
