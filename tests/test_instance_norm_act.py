import torch
import torch.nn.functional as F
from norm_support import NormTests, images, spread
from op_tests import Sample

from gankernels.ops import instance_norm_act
from gankernels.ops.bias_act import ACTIVATIONS


def sample(shape, affine=True, last=False, **kwargs):
    parameters = {"weight": spread(shape[1]), "bias": spread(shape[1]).flip(0)} if affine else {}
    return Sample({"x": images(*shape, last=last), **parameters}, kwargs)


class TestInstanceNormAct(NormTests):
    name = "instance_norm_act"
    overloads = ("instance_norm_act", "batch_norm_act_backward", "batch_norm_act_double_backward")

    def samples(self):
        yield sample((3, 3, 4, 5), act="lrelu")
        yield sample((2, 3, 4, 5), act="swish", last=True, gain=1.7)
        yield sample((2, 4, 3, 1), affine=False)
        yield sample((0, 3, 4, 4), act="tanh")
        yield sample((0, 3, 4, 4), last=True)
        yield sample((2, 3, 0, 4), act="relu")
        yield sample((1, 2, 19, 17), act="tanh", eps=0.1)
        yield sample((2, 3, 5), act="lrelu", alpha=-0.3, gain=-1.5)
        yield sample((1, 2, 2, 3, 2), act="softplus")
        for act in ACTIVATIONS:
            yield sample((2, 2, 3, 3), act=act, gain=1.3)
        yield sample((1, 2, 19, 17), act="sigmoid")

    def large(self):
        yield sample((2, 3, 40, 41), act="swish")
        yield sample((3, 130, 9, 8), act="tanh", last=True)
        yield sample((2, 7, 40, 48), act="lrelu", last=True)
        yield sample((5, 70, 4, 4), act="lrelu")

    def bad(self):
        x, c = torch.randn(2, 3, 4, 4), torch.ones(3)
        good = {"x": x, "weight": c, "bias": c}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": [1.0]}, "x is list"
        yield good | {"x": torch.ones(2, 3)}, r"x has shape \[2, 3\], expected \[N, C, H, W\]"
        for name in ("weight", "bias"):
            yield good | {name: torch.ones(4)}, rf"{name} has shape \[4\], expected \[3\] \(x.shape\[1\]\)"
            yield good | {name: c.double()}, f"{name} has dtype torch.float64, expected torch.float32"
            yield good | {name: c.to("meta")}, f"{name} is on meta"
            yield good | {name: 1.0}, f"{name} is float"
        yield good | {"x": x.bfloat16(), "bias": c.bfloat16()}, "bias has dtype torch.bfloat16, expected torch.float32"
        yield good | {"x": x[..., :1, :1]}, "expected more than 1 value per channel of a sample"
        yield good | {"act": "gelu"}, "act is 'gelu'"
        yield good | {"eps": 0.0}, "eps is 0.0"
        yield good | {"gain": float("nan")}, "gain is nan"


def test_it_is_pytorchs():
    x, w, b = torch.randn(3, 4, 5, 6), torch.rand(4), torch.rand(4)
    theirs = F.leaky_relu(F.instance_norm(x, weight=w, bias=b, eps=1e-3), 0.1)
    torch.testing.assert_close(instance_norm_act(x, w, b, eps=1e-3, act="lrelu", alpha=0.1), theirs)
