"""The derivatives written out of ProGAN's, StyleGAN's and StyleGAN2's discriminators, against autograd's."""

import pytest
import torch
from gankernels.models import progan, stylegan, stylegan2
from golden_networks import filled

from gankernels import losses, nn

SMALL = {"img_resolution": 16, "img_channels": 2, "channel_base": 64, "channel_max": 4}
NETWORKS = {
    "resnet": (stylegan2, {}),
    "skip": (stylegan2, {"architecture": "skip"}),
    "orig": (stylegan2, {"architecture": "orig", "mbstd_num_channels": 0}),
    "labels": (stylegan2, {"c_dim": 3}),
    "progan": (progan, {}),
    "acgan": (progan, {"c_dim": 3}),
    "stylegan": (stylegan, {"c_dim": 3, "mbstd_group_size": 2}),
}


def case(name, resolution=16):
    module, options = NETWORKS[name]
    net = filled(module.Discriminator(**SMALL, **options))
    images = torch.randn(4, 2, resolution, resolution, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return net, images, torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1]] if net.c_dim else None


def agree(net, images, c):
    y, derivative = nn.linearize(net, images, c)
    x = images.clone().requires_grad_()
    expected = net(x, c)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(derivative.adjoint(g), gradient)
    t = torch.randn_like(images)
    torch.testing.assert_close((derivative.tangent(t) * g).sum(), (t * gradient).sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_derivative(name):
    agree(*case(name))


@pytest.mark.parametrize("name", ["progan", "stylegan"])
@pytest.mark.parametrize(("resolution", "alpha"), [(16, 0.3), (8, 0.6), (4, 1.0)])
def test_derivative_while_growing(name, resolution, alpha):
    net, images, c = case(name, resolution)
    net.grow(resolution, alpha)
    agree(net, images, c)


@pytest.mark.parametrize("name", ["resnet", "skip", "labels", "stylegan"])
@pytest.mark.parametrize("form", ["adjoint", "tangent"])
def test_forms_of_r1_agree(name, form):
    net, images, c = case(name)
    found = []
    for one in ("double_backward", form):
        penalty = losses.r1_penalty(net, images, 2.0, c, form=one)
        found.append(
            [penalty, *torch.autograd.grad(penalty, list(net.parameters()), allow_unused=True, materialize_grads=True)]
        )
    for ours, truth in zip(*found[::-1], strict=True):
        torch.testing.assert_close(ours, truth)


def test_16_bit_blocks_have_a_derivative():
    net = stylegan2.Discriminator(**SMALL, num_fp16_res=1, half_dtype="bfloat16", half_devices=["cpu"])
    images = torch.randn(4, 2, 16, 16)
    found = [losses.r1_penalty(net, images, 2.0, form=form) for form in ("double_backward", "adjoint")]
    torch.testing.assert_close(*found, rtol=0.05, atol=0.0)


def test_r1_under_compile():
    net, images, _ = case("resnet")
    eager = losses.r1_penalty(net, images, 2.0)
    compiled = torch.compile(lambda x: losses.r1_penalty(net, x, 2.0), backend="aot_eager", fullgraph=True)(images)
    torch.testing.assert_close(compiled, eager)
    parameters = list(net.parameters())
    options = {"allow_unused": True, "materialize_grads": True}
    gradients = [torch.autograd.grad(one, parameters, **options) for one in (compiled, eager)]
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth)
