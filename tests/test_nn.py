"""Layers against PyTorch's own: the same arguments, names, numbers and running statistics."""

import copy

import pytest
import torch
from torch import nn

from gankernels.nn import BatchNormAct2d, BiasAct, Conv2d, ConvTranspose2d, Linear, Maxout

PAIRS = {
    "conv": (Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(4, 6, 3, 2, 1, groups=2)),
    "conv-same": (Conv2d(4, 6, 3, padding="same", dilation=2), nn.Conv2d(4, 6, 3, padding="same", dilation=2)),
    "transpose": (
        ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, bias=False),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, bias=False),
    ),
    "linear": (Linear(5, 3), nn.Linear(5, 3)),
    "linear-act": (Linear(5, 3, False, act="swish", gain=2.0), lambda m: lambda x: 2 * nn.functional.silu(m(x))),
    "norm": (BatchNormAct2d(4), nn.BatchNorm2d(4)),
    "norm-cumulative": (BatchNormAct2d(4, momentum=None), nn.BatchNorm2d(4, momentum=None)),
    "norm-bare": (
        BatchNormAct2d(4, affine=False, track_running_stats=False),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ),
}


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_pytorch(name, train):
    ours, theirs = (copy.deepcopy(m) for m in PAIRS[name])
    ours = ours.double().train(train)
    if isinstance(theirs, nn.Module):
        theirs = theirs.double().train(train)
        theirs.load_state_dict(ours.state_dict())
        plain = theirs
    else:
        plain = nn.Linear(5, 3, False).double()
        plain.load_state_dict(ours.state_dict())
        theirs = theirs(plain)
    for _ in range(2):
        x = torch.randn((3, 5) if "linear" in name else (3, 4, 5, 6), dtype=torch.float64)
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        grads = [torch.autograd.grad(y.sin().sum(), list(m.parameters()) or [x.requires_grad_()])
                 for y, m in ((a, ours), (b, plain)) if y.requires_grad]  # fmt: skip
        for one, other in zip(*grads, strict=True) if grads else ():
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


def test_bias_act_is_a_parameter_and_an_activation():
    layer = BiasAct("lrelu", 0.1, num_features=3, gain=2.0)
    assert list(layer.state_dict()) == ["bias"]
    layer.bias.data = torch.tensor([1.0, 0.0, -3.0])
    assert layer(torch.ones(1, 3, 1)).flatten().tolist() == pytest.approx([4.0, 2.0, -0.4])
    assert not list(BiasAct("tanh").parameters())


def test_maxout_takes_neighbours():
    x = torch.tensor([[1.0, 5.0, 2.0, -1.0, -4.0, -2.0]])
    assert Maxout(3)(x).tolist() == [[5.0, -1.0]]
    assert Maxout(2)(x[..., None, None]).shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match="x has 6 channels, expected a multiple of pieces = 4"):
        Maxout(4)(x)


@pytest.mark.parametrize("layer", [Conv2d, ConvTranspose2d])
def test_padding_that_the_operators_do_not_have(layer):
    with pytest.raises(ValueError, match="zeros"):
        layer(3, 3, 3, padding=1, padding_mode="reflect")


def test_norm_takes_images_only():
    with pytest.raises(ValueError, match="4D"):
        BatchNormAct2d(3)(torch.randn(2, 3))


def test_output_size_of_a_transposed_convolution():
    ours, theirs = ConvTranspose2d(3, 4, 4, (2, 3), 1), nn.ConvTranspose2d(3, 4, 4, (2, 3), 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5, 4)
    for size in ([10, 12], [11, 13], (2, 4, 10, 11)):
        y = ours(x, output_size=size)
        assert list(y.shape[2:]) == list(size[-2:])
        torch.testing.assert_close(y, theirs(x, output_size=list(size[-2:])))
    for size in ([12, 12], [9, 12], [10], (4, 10, 12)):
        with pytest.raises(ValueError, match="ConvTranspose2d: output_size is"):
            ours(x, output_size=size)
