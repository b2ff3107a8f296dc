"""A layer's derivative as forward code equals PyTorch's, in both directions, and so do its own derivatives."""

import copy

import pytest
import torch
from op_tests import on_each_backend
from penalty_support import Given
from torch import nn

import gankernels
from gankernels import nn as layers
from gankernels import ops
from gankernels.nn import (
    SPADE,
    AdaIN,
    BatchNormAct2d,
    BiasAct,
    ConditionalBatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Downsample,
    EqualizedConv2d,
    EqualizedLinear,
    FilteredLReLU,
    GradientReversal,
    InstanceNormAct2d,
    Linear,
    Maxout,
    MinibatchStdDev,
    NoiseInjection,
    PixelNorm,
    PixelShuffleAct,
    SelfAttention,
    SpectralNorm,
    Upsample,
    linearize,
    linearized,
    pullback,
    pushforward,
    register_linearization,
)
from gankernels.nn import Blur as BlurLayer
from gankernels.nn._linearize import _RULES


class Blur(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, 4))
        self.options = options

    def forward(self, x):
        return ops.upfirdn2d(x, self.filter, **self.options)


@register_linearization(Blur)
def _blur(m, x):
    return linearized.upfirdn2d(x, m.filter, **m.options)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(Conv2d(4, 4, 3, padding=1), BiasAct("tanh", num_features=4))

    def forward(self, x):
        return x + self.inner(x)


@register_linearization(Residual)
def _residual(m, x):
    y, inner = linearize(m.inner, x)
    return x + y, linearized.total(linearized.chain(), inner)


class Projection(nn.Module):
    """Conditional: <weight[c], features> as well."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), Linear(60, 5, act="swish"))
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, x, c):
        return (self.inner(x) * self.weight[c]).sum(1)


@register_linearization(Projection)
def _projection(m, x, c):
    y, inner = linearize(m.inner, x)
    w = m.weight[c]
    last = linearized.Linearization(lambda t: (t * w).sum(1), lambda g: g[:, None] * w)
    return (y * w).sum(1), linearized.chain(inner, last)


ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
CASES = {
    "conv": lambda: Conv2d(4, 6, 3, 2, 1, groups=2),
    "conv-odd": lambda: Conv2d(4, 2, (2, 3), (3, 2), (0, 2), dilation=(2, 1), bias=False),
    "conv-same": lambda: Conv2d(4, 3, 3, padding="same", dilation=2),
    "conv-same-even": lambda: Conv2d(4, 3, (2, 3), padding="same"),
    "conv-valid": lambda: Conv2d(4, 3, 2, padding="valid"),
    "transpose": lambda: ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
    "transpose-spare": lambda: ConvTranspose2d(4, 2, 3, 1, 0, output_padding=1, dilation=2),
    "linear": lambda: nn.Sequential(nn.Flatten(), Linear(60, 5, act="elu", gain=0.5), Linear(5, 2, bias=False)),
    "linear-4d": lambda: Linear(5, 2, act="tanh"),
    "equalized-linear": lambda: nn.Sequential(
        nn.Flatten(), EqualizedLinear(60, 5, act="lrelu", lr_multiplier=0.01), EqualizedLinear(5, 2, bias=False)
    ),
    "equalized-conv": lambda: EqualizedConv2d(4, 3, 3, act="lrelu", clamp=2.0),
    "equalized-conv-bare": lambda: EqualizedConv2d(4, 3, 1, bias=False, act="swish"),
    "equalized-conv-down": lambda: EqualizedConv2d(4, 3, 3, down=2, act="lrelu"),
    "equalized-conv-down-1x1": lambda: EqualizedConv2d(4, 3, 1, down=2, bias=False),
    "equalized-conv-down-unfiltered": lambda: EqualizedConv2d(4, 3, 3, down=2, resample_filter=None),
    "equalized-conv-up": lambda: EqualizedConv2d(4, 3, 3, up=2, act="swish"),
    "equalized-conv-up-1x1": lambda: EqualizedConv2d(4, 3, 1, up=2),
    "equalized-conv-up-unfiltered": lambda: EqualizedConv2d(4, 3, 3, up=2, resample_filter=None, padding=2),
    "equalized-conv-up-down": lambda: EqualizedConv2d(4, 3, 3, up=3, down=2),
    "upsample": lambda: Upsample(),
    "upsample-bare": lambda: Upsample(3, None, gain=0.5),
    "downsample": lambda: Downsample((1, 2), (1, 2, 1), padding=1),
    "blur-layer": lambda: BlurLayer((1, 3, 3, 1), gain=2.0),
    "filtered-lrelu": lambda: FilteredLReLU(
        4, up=2, down=2, filter_up=(1, 3, 3, 1), filter_down=(1, 3, 3, 1), padding=3, clamp=1.0
    ),
    "pixel-shuffle": lambda: PixelShuffleAct(2, "swish", num_features=4),
    "reversal": lambda: GradientReversal(0.5),
    "noise": lambda: NoiseInjection(),
    "pixel-norm": lambda: PixelNorm(),
    "pixel-norm-last": lambda: nn.Sequential(nn.Flatten(), PixelNorm(-1)),
    "stddev": lambda: MinibatchStdDev(3, 2),
    "stddev-all": lambda: MinibatchStdDev(None),
    "attention": lambda: nn.Sequential(Conv2d(4, 8, 1), SelfAttention(8, bias=True)),
    "attention-pooled": lambda: nn.Sequential(Conv2d(4, 8, 2, padding=1), Upsample(), SelfAttention(8, pool=True)),
    "spectral-norm": lambda: SpectralNorm(nn.Sequential(Conv2d(4, 3, 3), BiasAct("lrelu", num_features=3))).eval(),
    "norm-train": lambda: BatchNormAct2d(4, act="lrelu", alpha=0.2),
    "norm-eval": lambda: BatchNormAct2d(4, act="softplus", gain=2.0).eval(),
    "norm-linear": lambda: BatchNormAct2d(4, gain=3.0),
    "norm-smooth": lambda: BatchNormAct2d(4, act="swish", momentum=None),
    "norm-bare": lambda: BatchNormAct2d(4, affine=False, track_running_stats=False, act="tanh"),
    "instance-norm": lambda: InstanceNormAct2d(4, affine=True, act="lrelu", alpha=0.3, gain=1.5),
    "instance-norm-smooth": lambda: InstanceNormAct2d(4, affine=True, act="swish"),
    "instance-norm-bare": lambda: InstanceNormAct2d(4, gain=2.0),
    "adain": lambda: Given(AdaIN(4, 5), torch.randn(3, 5)),
    "conditional-norm": lambda: Given(ConditionalBatchNorm2d(4, 5, act="tanh", gain=1.5), torch.randn(3, 5)),
    "conditional-norm-eval": lambda: Given(ConditionalBatchNorm2d(4, 5, act="lrelu").eval(), torch.randn(3, 5)),
    "spade": lambda: Given(SPADE(4, 2, 3, act="softplus"), torch.randn(3, 2, 2, 4)),
    "spade-eval": lambda: Given(SPADE(4, 2, 3, gain=0.7).eval(), torch.randn(3, 2, 3, 5)),
    "maxout": lambda: nn.Sequential(Maxout(2), nn.Identity()),
    "pool": lambda: nn.MaxPool2d(2, 1, ceil_mode=True),
    "pool-strided": lambda: nn.MaxPool2d((3, 2), 2, 1),
    "dropout": lambda: nn.Dropout(0.4),
    "dropout-eval": lambda: nn.Dropout(0.4).eval(),
    "shapes": lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (6, 10)), nn.Flatten(0, 1), Linear(10, 2)),
    "blur": lambda: Blur(up=2, down=3, padding=[1, 2, 3, 4], gain=1.5),
    "blur-crop": lambda: Blur(up=[3, 1], down=[1, 2], padding=[-2, 3, 4, -1], flip_filter=True),
    "residual": Residual,
    "projection": Projection,
    **{f"act-{act}": lambda act=act: BiasAct(act, num_features=4, gain=1.7) for act in ACTS},
    "act-negative-gain": lambda: BiasAct("lrelu", -0.3, gain=-1.0),
}


backend = on_each_backend(names=("reference", "cpu"))


def given(name):
    torch.manual_seed(3)
    module = CASES[name]().double()
    for p in module.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    return module, (x, torch.tensor([0, 2, 1])) if name == "projection" else (x,)


def everything(value, module, inputs):
    """The gradient of a scalar in every parameter and input; None counts as 0."""
    wanted = [*module.parameters(), *inputs]
    grads = torch.autograd.grad(value, wanted, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_equals_pytorch(backend, name):
    module, args = given(name)
    ours, theirs = copy.deepcopy(module), module
    x = args[0]
    torch.manual_seed(7)
    with gankernels.backend("reference"):
        expected = theirs(*args)
    torch.manual_seed(7)
    y, derivative = linearize(ours, *args)
    torch.testing.assert_close(y, expected)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg="a running statistic moved otherwise")
    g = torch.randn_like(y).requires_grad_()
    t = torch.randn_like(x).requires_grad_()
    (vjp,) = torch.autograd.grad(expected, x, g, create_graph=True)
    (jvp,) = torch.autograd.grad(vjp, g, t, create_graph=True)
    adjoint, tangent = derivative.adjoint(g), derivative.tangent(t)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(adjoint, vjp, **close)
    torch.testing.assert_close(tangent, jvp, **close)
    if not adjoint.requires_grad:
        return
    # <w, tangent(t)> = <adjoint(w), t>: PyTorch's third derivative of batch norm, the direct way, is wrong.
    w = torch.randn_like(y)
    (of_w,) = torch.autograd.grad(expected, x, w, create_graph=True)
    pairs = [((adjoint * t.detach()).sum(), (vjp * t.detach()).sum()), ((tangent * w).sum(), (of_w * t).sum())]
    for value, truth in pairs:
        for a, b in zip(everything(value, ours, (x, g, t)), everything(truth, theirs, (x, g, t)), strict=True):
            torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("act", ACTS)
def test_clamped_activation(backend, act):
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    y, derivative = linearized.bias_act(x, b, act=act, clamp=0.6)
    g = torch.randn_like(y)
    with gankernels.backend("reference"):
        (expected,) = torch.autograd.grad(ops.bias_act(x, b, act=act, clamp=0.6), x, g)
    torch.testing.assert_close(derivative.adjoint(g), expected)


def test_pullback_and_pushforward():
    module = Linear(3, 2, act="tanh").double()
    x, t, g = (torch.randn(4, n, dtype=torch.float64) for n in (3, 3, 2))
    y, pull = pullback(module, x)
    y2, dy = pushforward(module, x, t)
    assert torch.equal(y, module(x))
    assert torch.equal(y, y2)
    torch.testing.assert_close((pull(g) * t).sum(), (g * dy).sum())


def test_autocast_keeps_the_inputs_dtype(backend):
    module = nn.Sequential(Conv2d(3, 4, 3), BiasAct("lrelu", num_features=4), nn.Flatten(), Linear(36, 1))
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, derivative = linearize(module, x)
        adjoint = derivative.adjoint(torch.ones_like(y))
        derivative.tangent(x.detach())
        (expected,) = torch.autograd.grad(module(x).sum(), x)
    assert adjoint.dtype == torch.float32
    torch.testing.assert_close(adjoint, expected, rtol=2e-2, atol=2e-2)


def test_what_no_rule_describes_is_refused():
    class Own(Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(TypeError, match=r"GELU has no rule .*register_linearization"):
        linearize(nn.Sequential(Conv2d(3, 2, 1), nn.GELU()), x)
    with pytest.raises(TypeError, match="Own has a forward of its own"):
        linearize(Own(3, 2, 1), x)
    hooked = Conv2d(3, 2, 1)
    handle = hooked.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(TypeError, match="Conv2d has forward hooks"):
        linearize(hooked, x)
    handle.remove()
    linearize(hooked, x)
    hooked.forward = lambda x: x
    with pytest.raises(TypeError, match="Conv2d has a forward of its own"):
        linearize(hooked, x)
    with pytest.raises(TypeError, match="got a condition c"):
        linearize(Conv2d(3, 2, 1), x, torch.tensor([0]))
    with pytest.raises(ValueError, match="expected classes of"):
        register_linearization(int)


# Of two images, or of an image and a style that a generator differentiates as well; or drawn anew at each call.
REFUSED = {
    "AugmentPipe": lambda: layers.AugmentPipe(),
    "FadeIn": lambda: layers.FadeIn(3, 4),
    "ModulatedConv2d": lambda: layers.ModulatedConv2d(4, 3, 3),
    "StyledConv": lambda: layers.StyledConv(4, 3, 3, 5),
}


def test_every_layer_has_a_rule_or_is_refused_by_name():
    kinds = {n: k for n in layers.__all__ if isinstance(k := getattr(layers, n), type) and issubclass(k, nn.Module)}
    without = {name for name, kind in kinds.items() if kind not in _RULES}
    assert without == set(REFUSED)
    tried = {type(m).__name__ for make in CASES.values() for m in make().modules()}
    assert set(kinds) - without <= tried
    for name, make in REFUSED.items():
        for c in (None, torch.randn(2, 5)):
            with pytest.raises(TypeError, match=f"linearize: {name} has no rule .*register_linearization"):
                linearize(make(), torch.randn(2, 4, 8, 8), c)


def test_a_conditional_layer_asks_for_its_condition():
    x = torch.randn(2, 4, 8, 8)
    for layer in (AdaIN(4, 5), ConditionalBatchNorm2d(4, 5), SPADE(4, 5)):
        with pytest.raises(TypeError, match=f"{type(layer).__name__} got no condition c, but the rule of its class"):
            linearize(layer, x)


def test_a_subclass_that_keeps_forward_and_a_parametrized_weight_keep_the_rule():
    class Named(Conv2d):
        pass

    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    module = nn.utils.parametrizations.weight_norm(Named(3, 2, 1))
    y, derivative = linearize(module, x)
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(derivative.adjoint(torch.ones_like(y)), expected)
