import torch
from norm_support import BatchStatistics, images, running
from op_tests import Sample

from gankernels.ops import batch_norm_act, spade_norm
from gankernels.ops.bias_act import ACTIVATIONS


def sample(shape, training=True, last=False, **kwargs):
    tensors = {"x": images(*shape, last=last), "scale": images(*shape, last=last), "shift": images(*shape)}
    if not training:
        return Sample(tensors, {"training": False, **kwargs}, running(shape[1]))
    return Sample(tensors, {"training": True, **kwargs})


class TestSpadeNorm(BatchStatistics):
    name = "spade_norm"
    overloads = ("batch_norm_act", "batch_norm_act_backward", "batch_norm_act_double_backward")
    layout_of = ("x", "scale", "shift")
    parameters = ("scale", "shift")
    parameters_follow_x = True

    def samples(self):
        yield sample((3, 3, 4, 5), act="lrelu")
        yield sample((3, 3, 4, 5), act="swish", training=False, gain=1.7)
        yield sample((3, 3, 4, 5), act="swish", last=True)
        yield sample((2, 4, 3, 3), act="relu", training=False, last=True)
        yield sample((0, 3, 4, 4), act="tanh")
        yield sample((0, 3, 4, 4), training=False, last=True)
        yield sample((5, 2, 1, 1), act="sigmoid")
        yield sample((1, 2, 3, 7), training=False)
        yield sample((2, 3, 5), act="lrelu", alpha=-0.3, gain=-1.5)
        yield sample((2, 2, 2, 3, 2), act="softplus", eps=0.1)
        for act in ACTIVATIONS:
            yield sample((2, 2, 3, 3), act=act, gain=1.3)

    def large(self):
        yield sample((2, 3, 40, 41), act="swish")
        yield sample((9, 130, 4, 4), act="tanh", last=True)
        yield sample((9, 20, 4, 4), act="lrelu")
        yield sample((3, 7, 40, 48), act="lrelu", last=True)
        yield sample((3, 7, 40, 48), act="swish", training=False)

    def bad(self):
        x = torch.randn(2, 3, 4, 4)
        good = {"x": x, "scale": x, "shift": x, "training": True}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": 1.0}, "x is float"
        yield good | {"x": torch.ones(2, 3)}, r"x has shape \[2, 3\], expected \[N, C, H, W\]"
        for name in ("scale", "shift"):
            yield good | {name: x[:1]}, rf"{name} has shape \[1, 3, 4, 4\], expected \[2, 3, 4, 4\] as x"
            yield good | {name: x.double()}, f"{name} has dtype torch.float64, expected torch.float32 as x"
            yield good | {name: x.to("meta")}, f"{name} is on meta"
            yield good | {name: None}, f"{name} is NoneType"
        one = x[:1, :, :1, :1]
        yield good | {"x": one, "scale": one, "shift": one}, "expected more than 1 value per channel when training"
        yield from self.bad_running(good)


def test_constant_maps_are_batch_norm():
    x, w, b = torch.randn(3, 4, 5, 6), torch.rand(4), torch.rand(4)
    maps = [t.view(1, 4, 1, 1).expand_as(x) for t in (w - 1, b)]
    ours = spade_norm(x, *maps, training=True, act="tanh")
    torch.testing.assert_close(ours, batch_norm_act(x, w, b, None, None, training=True, act="tanh"))
