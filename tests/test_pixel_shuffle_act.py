import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels.ops import pixel_shuffle_act


def random(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


class TestPixelShuffleAct(OpTests):
    name = "pixel_shuffle_act"
    overloads = ("pixel_shuffle_act", "pixel_shuffle_act_backward", "pixel_shuffle_act_double_backward")

    def samples(self):
        yield Sample({"x": random(2, 8, 3, 2), "bias": random(8)}, {"upscale_factor": 2, "act": "swish"})
        yield Sample({"x": random(1, 9, 2, 3, last=True)}, {"upscale_factor": 3, "act": "tanh", "clamp": 0.8})
        yield Sample({"x": random(2, 3, 2, 2), "bias": random(3)}, {"upscale_factor": 1, "act": "sigmoid"})
        yield Sample({"x": random(0, 4, 2, 2), "bias": random(4)}, {"upscale_factor": 2})
        yield Sample({"x": random(2, 8, 3, 8), "bias": random(8)}, {"upscale_factor": 2, "act": "lrelu"})
        yield Sample({"x": random(2, 16, 1, 1, last=True), "bias": random(16)}, {"upscale_factor": 4, "act": "relu"})
        yield Sample({"x": random(1, 16, 2, 4)}, {"upscale_factor": 4, "act": "elu", "gain": -2.0})

    def bad(self):
        x = torch.randn(2, 8, 3, 3)
        good = {"x": x, "upscale_factor": 2}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": x[0]}, "x has shape"
        yield good | {"upscale_factor": 3}, "x has 8 channels, expected a multiple of 9"
        yield good | {"upscale_factor": 0}, "upscale_factor is 0"
        yield good | {"bias": torch.ones(2)}, r"bias has shape \[2\], expected \[8\]"
        yield good | {"bias": torch.ones(8).double()}, "bias has dtype"
        yield good | {"act": "gelu"}, "act is 'gelu'"
        yield good | {"clamp": -1}, "clamp is -1"

    def check_pruned(self, calls: Calls, wanted: str):
        (backward,) = [args for name, args in calls.seen if "pixel_shuffle_act_backward" in name]
        assert list(backward["wanted"]) == [wanted == "x", wanted == "bias"]

    def opcheck_args(self, overload, args):
        """The second derivative has no derivative of its own: it is refused by name."""
        return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args) if "double" in overload else args


def test_pixel_shuffle_act_by_the_book():
    x, bias = random(2, 8, 3, 2), random(8)
    expected = F.leaky_relu(F.pixel_shuffle(x + bias.view(1, 8, 1, 1), 2), 0.2)
    torch.testing.assert_close(pixel_shuffle_act(x, 2, bias, act="lrelu", gain=1), expected)


backend = on_each_backend("pixel_shuffle_act")


def test_memory_format_is_kept(backend):
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend))
    assert pixel_shuffle_act(x, 2).is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    assert pixel_shuffle_act(x, 2).is_contiguous(memory_format=torch.channels_last)


def test_rectifiers_keep_the_output_alone(backend):
    if backend == "reference":
        pytest.skip("PyTorch keeps what it likes")
    kept = []
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = pixel_shuffle_act(x, 2, act="lrelu")
        pixel_shuffle_act(x, 2)
    assert [t.data_ptr() for t in kept] == [y.data_ptr()]


def test_third_order_is_refused_by_name(backend):
    if backend == "reference":
        pytest.skip("reference has every order")
    x = torch.randn(4, 4, 3, 3, device=OpTests.device(backend), requires_grad=True)
    (g,) = torch.autograd.grad(pixel_shuffle_act(x, 2, act="swish").pow(3).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="pixel_shuffle_act: the derivative of order 3 is not supported"):
        torch.autograd.grad(h.sum(), x)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 5), st.integers(0, 70),
    st.sampled_from(["linear", "lrelu", "relu", "tanh", "swish"]), st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 10**6),
)  # fmt: skip
def test_any_shape(n, c, r, h, w, act, last, dtype, seed):
    torch.manual_seed(seed)
    x, bias = torch.randn(n, c * r * r, h, w).to(dtype), torch.randn(c * r * r).to(dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    gy, v = torch.randn(n, c, h * r, w * r).to(dtype), torch.randn(n, c * r * r, h, w).to(dtype)

    def run(*tensors):
        x, bias, gy = (t.detach().requires_grad_() for t in tensors)
        y = pixel_shuffle_act(x, r, bias, act=act)
        first = torch.autograd.grad(y, [x, bias], gy, create_graph=True)
        second = torch.autograd.grad(first, [x, bias, gy], [v.to(x), bias.detach()], allow_unused=True)
        return [y, *first, *(torch.zeros_like(t) if s is None else s for s, t in zip(second, tensors, strict=True))]

    with gankernels.backend("cpu"):
        ours = run(x, bias, gy)
    with gankernels.backend("reference"):
        theirs, truth = run(x, bias, gy), run(x.double(), bias.double(), gy.double())
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
