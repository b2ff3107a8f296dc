"""StyleGAN2's layers against the same written out in plain PyTorch, with the published parameter names."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_conv2d_resample import definition as resampled
from test_modulated_conv2d import definition as modulated

from gankernels.nn import EqualizedConv2d, EqualizedLinear, ModulatedConv2d, NoiseInjection, StyledConv
from gankernels.ops import setup_filter

FILTER = setup_filter([1, 3, 3, 1])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_linear_scales_at_run_time():
    layer = EqualizedLinear(5, 3, act="lrelu", lr_multiplier=0.01, bias_init=0.5).double()
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert layer.weight.std() > 20
    torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, 50.0))
    x = draw(2, 4, 5)
    u = x @ layer.weight.T * (0.01 / math.sqrt(5)) + layer.bias * 0.01
    torch.testing.assert_close(layer(x), F.leaky_relu(u, 0.2) * math.sqrt(2))
    assert EqualizedLinear(5, 3, bias=False).bias is None


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_resamples_and_activates(kernel, up, down):
    layer = EqualizedConv2d(4, 5, kernel, up=up, down=down, act="lrelu", clamp=0.7).double()
    layer.resample_filter = layer.resample_filter.float()
    layer.bias.data.normal_()
    assert sorted(layer.state_dict()) == ["bias", "resample_filter", "weight"]
    x = draw(2, 4, 6, 4)
    u = resampled(x, layer.weight / math.sqrt(4 * kernel**2), FILTER, up, down, [kernel // 2] * 4, 1, up == 1, False)
    y = layer(x)
    assert y.shape == (2, 5, 6 * up // down, 4 * up // down)
    u = F.leaky_relu(u + layer.bias[:, None, None], 0.2) * math.sqrt(2)
    torch.testing.assert_close(y, u.clamp(-0.7, 0.7))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [1, 2])
def test_modulated_convolution(demodulate, up):
    layer = ModulatedConv2d(4, 3, 3, up=up, demodulate=demodulate).double()
    layer.resample_filter = layer.resample_filter.float()
    x, styles, noise = draw(2, 4, 5, 5), draw(2, 4, seed=1), draw(5 * up, 5 * up, seed=2)
    gain = 1 if demodulate else 1 / 6
    expected = modulated(
        x, layer.weight, styles * gain, noise, up, 1, 1, FILTER, demodulate=demodulate, flip_weight=up == 1
    )
    torch.testing.assert_close(layer(x, styles, noise=noise), expected)


def test_styled_convolution_has_the_published_names_and_numbers():
    layer = StyledConv(4, 3, 3, 6, up=2, resolution=8, clamp=256).double()
    layer.resample_filter = layer.resample_filter.float()
    names = ["affine.bias", "affine.weight", "bias", "noise_const", "noise_strength", "resample_filter", "weight"]
    assert sorted(layer.state_dict()) == names
    layer.noise_strength.data.fill_(0.3)
    layer.bias.data.normal_()
    x, w = draw(2, 4, 4, 4), draw(2, 6, seed=1)
    styles = w @ layer.affine.weight.T / math.sqrt(6) + 1
    u = modulated(x, layer.weight, styles, layer.noise_const * 0.3, 2, 1, 1, FILTER, flip_weight=False)
    u = F.leaky_relu(u + layer.bias[:, None, None], 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x, w, "const"), u)
    torch.testing.assert_close(layer(x, w, layer.noise_const), u)
    assert not torch.equal(layer(x, w), layer(x, w))
    assert torch.equal(layer(x, w, None), layer(x, w, None))
    grads = torch.autograd.grad(layer(x, w, "const").sum(), list(layer.parameters()))
    assert all(g.abs().sum() > 0 for g in grads)


def test_to_rgb_is_a_styled_convolution_without_demodulation_and_noise():
    layer = StyledConv(4, 3, 1, 6, demodulate=False, noise=False, act="linear", resample_filter=None)
    assert sorted(layer.state_dict()) == ["affine.bias", "affine.weight", "bias", "weight"]
    x, w = draw(2, 4, 4, 4).float(), draw(2, 6).float()
    y = F.conv2d(x * (layer.affine(w) / 2)[:, :, None, None], layer.weight)
    torch.testing.assert_close(layer(x, w), y)


def test_styled_convolution_refuses_unknown_noise():
    layer = StyledConv(2, 2, 3, 4)
    x, w = torch.randn(1, 2, 4, 4), torch.randn(1, 4)
    with pytest.raises(ValueError, match="noise is 'constant', expected 'random'"):
        layer(x, w, "constant")
    with pytest.raises(ValueError, match="needs a resolution"):
        layer(x, w, "const")


@pytest.mark.parametrize("channels", [None, 3])
def test_noise_injection(channels):
    layer = NoiseInjection(channels)
    x, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5)
    torch.testing.assert_close(layer(x), x)
    layer.strength.data.normal_()
    torch.testing.assert_close(layer(x, noise), x + layer.strength * noise)
    (grad,) = torch.autograd.grad(layer(x, noise).square().sum(), layer.parameters())
    assert grad.shape == layer.strength.shape
    assert grad.abs().min() > 0
    assert not torch.equal(layer(x), layer(x))


def test_layers_run_in_half_precision_with_float32_parameters():
    x, w = torch.randn(2, 4, 4, 4).bfloat16(), torch.randn(2, 6)
    layer = StyledConv(4, 3, 3, 6, resolution=4)
    y = layer(x, w, "const")
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float(), w, "const"), rtol=0.05, atol=0.05)
    assert EqualizedConv2d(4, 3, 3, down=2)(x).dtype == torch.bfloat16
    assert EqualizedLinear(4, 3)(x.mean([2, 3])).dtype == torch.bfloat16
