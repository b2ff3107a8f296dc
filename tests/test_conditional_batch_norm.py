import torch
from norm_support import BatchStatistics, images, running, spread
from op_tests import Sample

from gankernels.ops.bias_act import ACTIVATIONS


def sample(shape, training=True, last=False, **kwargs):
    tensors = {"x": images(*shape, last=last), "scale": spread(*shape[:2]), "shift": spread(*shape[:2]).flip(1)}
    if not training:
        return Sample(tensors, {"training": False, **kwargs}, running(shape[1]))
    return Sample(tensors, {"training": True, "running_mean": None, "running_var": None, **kwargs})


class TestConditionalBatchNorm(BatchStatistics):
    name = "conditional_batch_norm"
    overloads = ("batch_norm_act", "batch_norm_act_backward", "batch_norm_act_double_backward")
    parameters = ("scale", "shift")

    def samples(self):
        yield sample((3, 3, 4, 5), act="relu")
        yield sample((3, 3, 4, 5), act="swish", training=False, gain=1.7)
        yield sample((3, 3, 4, 5), act="swish", last=True)
        yield sample((2, 4, 3, 3), act="lrelu", training=False, last=True)
        yield sample((0, 3, 4, 4), act="tanh")
        yield sample((0, 3, 4, 4), training=False, last=True)
        yield sample((5, 2, 1, 1), act="sigmoid")
        yield sample((6, 4), act="elu")
        yield sample((1, 2, 3, 7), training=False)
        yield sample((2, 3, 5), act="lrelu", alpha=-0.3, gain=-1.5)
        yield sample((2, 2, 2, 3, 2), act="softplus", eps=0.1)
        for act in ACTIVATIONS:
            yield sample((2, 2, 3, 3), act=act, gain=1.3)

    def large(self):
        yield sample((2, 3, 40, 41), act="swish")
        yield sample((9, 130, 4, 4), act="tanh", last=True)
        yield sample((9, 20, 4, 4), act="tanh")
        yield sample((3, 7, 40, 48), act="lrelu", last=True)
        yield sample((70, 257), act="lrelu")
        yield sample((3, 7, 40, 48), act="swish", last=True, training=False)

    def bad(self):
        x, s = torch.randn(2, 3, 4, 4), torch.ones(2, 3)
        good = {"x": x, "scale": s, "shift": s, "running_mean": None, "running_var": None, "training": True}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": 1.0}, "x is float"
        yield good | {"x": torch.ones(3)}, r"x has shape \[3\], expected \[N, C, ...\]"
        for name in ("scale", "shift"):
            yield good | {name: torch.ones(3)}, rf"{name} has shape \[3\], expected \[2, 3\] \(x.shape\[:2\]\)"
            yield good | {name: s.double()}, f"{name} has dtype torch.float64, expected torch.float32"
            yield good | {name: s.to("meta")}, f"{name} is on meta"
            yield good | {name: None}, f"{name} is NoneType"
        yield good | {"x": torch.ones(1, 3, 1, 1), "scale": s[:1], "shift": s[:1]}, "expected more than 1 value"
        yield from self.bad_running(good)
