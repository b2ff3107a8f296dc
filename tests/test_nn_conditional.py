"""Layers of normalisation against the formulas of PyTorch's own layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gankernels.nn import SPADE, AdaIN, ConditionalBatchNorm2d, InstanceNormAct2d


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm(affine):
    ours, theirs = InstanceNormAct2d(4, 1e-3, affine, act="relu"), nn.InstanceNorm2d(4, 1e-3, affine=affine)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4, 5, 6)
    close(ours(x), F.relu(theirs(x)))
    assert "affine" in repr(ours)


def test_adain():
    layer, x, style = AdaIN(4, 7), torch.randn(3, 4, 5, 6), torch.randn(3, 7)
    with torch.no_grad():
        layer.affine.weight.zero_()
    close(layer(x, style), F.instance_norm(x))  # scale 1 and shift 0 at first
    nn.init.normal_(layer.affine.weight)
    scale, shift = layer.affine(style).chunk(2, 1)
    close(layer(x, style), F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None])
    layer(x, style).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("kwargs", [{}, {"momentum": None}, {"track_running_stats": False}], ids=str)
def test_conditional_batch_norm(kwargs):
    layer, plain = ConditionalBatchNorm2d(4, 7, act="relu", **kwargs), nn.BatchNorm2d(4, affine=False, **kwargs)
    for training in (True, True, False):
        layer.train(training), plain.train(training)
        x, condition = torch.randn(3, 4, 5, 6) * 2 + 1, torch.randn(3, 7)
        scale, shift = 1 + layer.scale(condition), layer.shift(condition)
        close(layer(x, condition), F.relu(plain(x) * scale[:, :, None, None] + shift[:, :, None, None]))
    close(dict(layer.named_buffers()), dict(plain.named_buffers()))
    layer(x, condition).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_spade():
    layer, plain = SPADE(4, 3, hidden_channels=6), nn.BatchNorm2d(4, affine=False)
    for training in (True, False):
        layer.train(training), plain.train(training)
        x, segmentation = torch.randn(2, 4, 6, 8) * 2 + 1, torch.randn(2, 3, 12, 16)
        hidden = F.relu(layer.shared(F.interpolate(segmentation, (6, 8))))
        close(layer(x, segmentation), plain(x) * (1 + layer.scale(hidden)) + layer.shift(hidden))
    close(dict(layer.named_buffers()), dict(plain.named_buffers()))
    layer(x, segmentation).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())
    with pytest.raises(ValueError, match="SPADE: kernel_size is 4, expected an odd number"):
        SPADE(4, 3, kernel_size=4)


@pytest.mark.parametrize("layer", [AdaIN(4, 7), ConditionalBatchNorm2d(4, 7), SPADE(4, 3, 5), InstanceNormAct2d(4)])
def test_layers_export(layer):
    x = torch.randn(2, 4, 6, 6)
    args = (x, torch.randn(2, 3, 6, 6)) if isinstance(layer, SPADE) else (x, torch.randn(2, 7))
    args = args[:1] if isinstance(layer, InstanceNormAct2d) else args
    layer = layer.eval()
    close(torch.export.export(layer, args).module()(*args), layer(*args))
