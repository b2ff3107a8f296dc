"""Gradient penalties on numbers worked out by hand, and what they refuse."""

import copy
import math

import pytest
import torch
from gankernels.models.dcgan import DCGANDiscriminator
from penalty_support import (
    Quadratic,
)
from torch import nn

from gankernels.losses import dragan, path_length, r1_penalty, r2_penalty, wgan_gp
from gankernels.nn import (
    Linear,
)


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
