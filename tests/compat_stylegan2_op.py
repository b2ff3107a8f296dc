"""The script of a small repository that keeps its operators in a package op; test_compat.py copies it and runs it.

Arguments: the folder of golden_cases.py.
"""

import io
import math
import sys

import torch
from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d
from op.mine import mark
from torch import nn

sys.path.append(sys.argv[1])
from golden_cases import CASES, _draw, check_kept


def check_golden_numbers():
    f2 = _draw(3, 2, seed=9).float()
    for name, f in {
        "bias_act_lrelu": lambda x, b: fused_leaky_relu(x, b),
        "upfirdn2d_up_full": lambda x: upfirdn2d(x, f2 * 4, up=2, pad=(2, 1)),
        "upfirdn2d_down_full": lambda x: upfirdn2d(x, f2, down=2, pad=(1, 1, 1, 1)),
        # Correlation is convolution with the turned kernel; the size is that of [3, -1, 2, 2].
        "upfirdn2d_both_full": lambda x: upfirdn2d(x, f2.double().flip([0, 1]) * -1.5, (2, 3), (3, 1), (3, -1, 2, 2)),
        "conv2d": lambda x, w: conv2d_gradfix.conv2d(x, w, stride=2, padding=1),
        "conv_transpose2d": lambda x, w, b: conv2d_gradfix.conv_transpose2d(x, w, bias=b, stride=2, padding=1),
    }.items():
        check_kept(name, (f, CASES[name][1]))


class Discriminator(nn.Module):
    def __init__(self, channels):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", taps[None] * taps[:, None] / 64)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / 10)
        self.act = FusedLeakyReLU(channel=channels)

    def forward(self, x):
        x = self.act(conv2d_gradfix.conv2d(x, self.weight, padding=1))
        x = conv2d_gradfix.conv2d(upfirdn2d(x, self.kernel, pad=(2, 2)), self.weight, stride=2)
        return fused_leaky_relu(x).square().mean([1, 2, 3])


def check_a_step_of_training():
    model = Discriminator(3).double()
    real = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    with conv2d_gradfix.no_weight_gradients():
        (g,) = torch.autograd.grad(model(real).sum(), [real], create_graph=True)
    g.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    kept = io.BytesIO()
    torch.save(model, kept)
    kept.seek(0)
    again = torch.load(kept, weights_only=False)
    assert torch.equal(again(real), model(real))


def check_every_order():
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        fused_leaky_relu(x, b, 0.1, 3.0), 3 * nn.functional.leaky_relu(x + b[:, None, None], 0.1)
    )

    def network(x, b):
        return upfirdn2d(fused_leaky_relu(x.square(), b), k, up=2, down=3, pad=(2, 1))

    def gradient(x, b):
        return torch.autograd.grad(network(x, b).square().sum(), [x, b], create_graph=True)

    assert torch.autograd.gradcheck(network, (x, b))
    assert torch.autograd.gradgradcheck(network, (x, b))
    assert torch.autograd.gradgradcheck(gradient, (x, b))  # third


def check_the_rest():
    assert mark == "the user's"
    layer = FusedLeakyReLU(4)
    assert list(layer.state_dict()) == ["bias"]
    assert (layer.negative_slope, layer.scale) == (0.2, math.sqrt(2))
    assert FusedLeakyReLU(4, bias=False).bias is None
    assert type(layer).__module__ == "op.fused_act"
    assert callable(upfirdn2d)
    assert "gankernels" in conv2d_gradfix.__file__


if __name__ == "__main__":
    torch.manual_seed(0)
    check_golden_numbers()
    check_a_step_of_training()
    check_every_order()
    check_the_rest()
    print("unchanged")
