"""The thin modules: each is its operator, with names, a state dict and a representation."""

import pytest
import torch

import gankernels
from gankernels import nn, ops

X = torch.randn(2, 4, 6, 8, dtype=torch.float64)
TAPS = ops.setup_filter([1, 3, 3, 1])
BIAS = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
CASES = {
    "blur": (lambda: nn.Blur(), lambda x: ops.filter2d(x, ops.setup_filter([1, 2, 1])), ["filter"]),
    "blur-bare": (lambda: nn.Blur(None, gain=2.0), lambda x: 2 * x, []),
    "upsample": (lambda: nn.Upsample(), lambda x: ops.upsample2d(x, TAPS), ["filter"]),
    "upsample-3": (
        lambda: nn.Upsample((3, 1), padding=1), lambda x: ops.upsample2d(x, TAPS, up=(3, 1), padding=1), ["filter"],
    ),
    "downsample": (lambda: nn.Downsample(gain=0.5), lambda x: ops.downsample2d(x, TAPS, gain=0.5), ["filter"]),
    "filtered-lrelu": (
        lambda: nn.FilteredLReLU(
            4, up=2, down=2, filter_up=[1, 3, 3, 1], filter_down=[1, 3, 3, 1], padding=3, clamp=1.0
        ),
        lambda x: ops.filtered_lrelu(x, TAPS, TAPS, BIAS, up=2, down=2, padding=3, clamp=1.0),
        ["bias", "filter_up", "filter_down"],
    ),
    "filtered-lrelu-bare": (
        lambda: nn.FilteredLReLU(negative_slope=0.1), lambda x: ops.filtered_lrelu(x, slope=0.1), [],
    ),
    "pixel-shuffle": (
        lambda: nn.PixelShuffleAct(2, "lrelu", 0.1, num_features=4),
        lambda x: torch.pixel_shuffle(torch.nn.functional.leaky_relu(x + BIAS[:, None, None], 0.1), 2),
        ["bias"],
    ),
    "reversal": (lambda: nn.GradientReversal(2.0), lambda x: x, []),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_is_its_operator(name, backend):
    make, expected, names = CASES[name]
    layer = make()
    assert list(layer.state_dict()) == names
    if "bias" in names:
        layer.bias = torch.nn.Parameter(BIAS.clone())
    other = make()
    other.load_state_dict(layer.state_dict())
    with gankernels.backend(backend):
        y = other.double()(X) if "bias" not in names else layer(X)
        torch.testing.assert_close(y, expected(X))
    assert repr(layer).startswith(type(layer).__name__ + "(")


def test_gradient_reversal_turns_the_gradient():
    layer, x = nn.GradientReversal(), X.clone().requires_grad_()
    layer.lam = 0.5
    (g,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(g, torch.full_like(x, -0.5))
    assert repr(layer) == "GradientReversal(lam=0.5)"


def test_fade_in():
    lower = torch.randn(2, 5, 3, 4)
    layer = nn.FadeIn(5, 4, alpha=0.25)
    assert {n: list(t.shape) for n, t in layer.state_dict().items()} == {
        "weight": [4, 5, 1, 1], "bias": [4], "alpha": [],
    }  # fmt: skip
    image = X.float().requires_grad_()
    y = layer(image, lower)
    low = torch.nn.functional.interpolate(torch.nn.functional.conv2d(lower, layer.weight, layer.bias), scale_factor=2)
    torch.testing.assert_close(y, 0.25 * image + 0.75 * low)
    grads = torch.autograd.grad(y.sum(), [image, layer.weight, layer.bias])
    assert [g.shape for g in grads] == [image.shape, layer.weight.shape, layer.bias.shape]
    layer.alpha.fill_(1.0)
    torch.testing.assert_close(layer(image, lower), image)
    plain = nn.FadeIn(alpha=1.0)
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(image, image.detach()), image)
    assert nn.FadeIn(5, 4, bias=False).bias is None
    assert repr(layer) == "FadeIn(alpha=1, (5, 4))"
    with pytest.raises(ValueError, match="FadeIn: in_channels is 3 and out_channels None, expected both or neither"):
        nn.FadeIn(3)


def test_every_layer_of_one_tensor_has_a_rule():
    """So that compiled penalties take any discriminator made of the layers."""
    from gankernels.nn._linearize import _RULES

    of_more = {"ModulatedConv2d", "StyledConv", "FadeIn"}  # they take styles, or two images
    of_more |= {"AugmentPipe"}  # before the discriminator: a penalty is taken at what it gives
    kinds = {name: getattr(nn, name) for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    layers = {name for name, kind in kinds.items() if issubclass(kind, torch.nn.Module)}
    assert {name for name in layers if getattr(nn, name) not in _RULES} == of_more
