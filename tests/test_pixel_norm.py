import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels.nn import PixelNorm
from gankernels.ops import pixel_norm


def sample(shape, last=False, **kwargs):
    x = torch.randn(shape, dtype=torch.float64) + 0.3
    return Sample({"x": x.contiguous(memory_format=torch.channels_last) if last else x}, kwargs)


class TestPixelNorm(OpTests):
    name = "pixel_norm"
    overloads = ("pixel_norm", "pixel_norm_backward", "pixel_norm_double_backward")

    def samples(self):
        yield sample((2, 3, 4, 5))
        yield sample((2, 5, 3, 4), last=True, eps=0.1)
        yield sample((0, 3, 4, 4))
        yield sample((3, 7), dim=-1)
        yield sample((5,), dim=0)
        yield sample((2, 3, 4, 5), dim=2)
        yield sample((2, 3, 4, 5), last=True, dim=0)
        yield sample((2, 1, 1, 1), eps=1.0)
        yield sample((2, 3, 2, 2, 3))

    def bad(self):
        x = torch.randn(2, 3, 4, 4)
        yield {"x": x.int()}, "x has dtype torch.int32"
        yield {"x": [1.0]}, "x is list"
        yield {"x": x[:, :0]}, r"x has shape \[2, 0, 4, 4\], expected 1 channel or more"
        yield {"x": x, "dim": 4}, "dim is 4, expected a dimension of x, which has 4"
        yield {"x": x, "dim": -5}, "dim is -5"
        yield {"x": x, "dim": 1.0}, "dim is 1.0"
        yield {"x": x, "dim": True}, "dim is True"
        yield {"x": torch.tensor(1.0), "dim": 0}, "dim is 0"
        yield {"x": x, "eps": 0.0}, "eps is 0.0, expected more than 0"
        yield {"x": x, "eps": -1}, "eps is -1"
        yield {"x": x, "eps": float("nan")}, "eps is nan"
        yield {"x": x, "eps": "1"}, "eps is '1'"

    def check_pruned(self, calls: Calls, wanted: str):
        assert len([name for name, _ in calls.seen if "pixel_norm_backward" in name]) == 1

    def opcheck_args(self, overload, args):
        """The second derivative has no derivative of its own: it is refused by name."""
        return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args) if "double" in overload else args


backend = on_each_backend("pixel_norm")


def test_unit_mean_square(backend):
    x = torch.randn(2, 64, 5, 7, device=OpTests.device(backend)) * 37
    y = pixel_norm(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 5, 7, device=x.device))
    torch.testing.assert_close(y * x.square().mean(1, keepdim=True).sqrt(), x)
    torch.testing.assert_close(pixel_norm(torch.zeros_like(x)), torch.zeros_like(x))


def test_memory_format_is_kept(backend):
    x = torch.randn(4, 6, 5, 5, device=OpTests.device(backend)).contiguous(memory_format=torch.channels_last)
    assert pixel_norm(x).is_contiguous(memory_format=torch.channels_last)
    assert pixel_norm(x, 2).is_contiguous()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 512, 4, 4), (1, 70, 33, 34), (2, 1300, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_that_cross_blocks(dtype, shape, last):
    layout = torch.channels_last if last else torch.contiguous_format
    x, v, gy = (torch.randn(shape, dtype=dtype).contiguous(memory_format=layout) + 1 for _ in range(3))

    def run(*tensors):
        x, gy, v = (t.detach().requires_grad_() for t in tensors)
        y = pixel_norm(x)
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, [x, gy], v)]

    with gankernels.backend("cpu"):
        ours = run(x, gy, v)
    with gankernels.backend("reference"):
        theirs, truth = run(x, gy, v), run(x.double(), gy.double(), v.double())
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5), st.data(), st.floats(1e-8, 2), st.integers(0, 10**6)
)
def test_any_shape(shape, data, eps, seed):
    torch.manual_seed(seed)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    shape[dim] = max(shape[dim], 1)  # no channels are refused
    x = torch.randn(shape)
    with gankernels.backend("cpu"):
        ours = pixel_norm(x, dim, eps)
    with gankernels.backend("reference"):
        theirs, truth = pixel_norm(x, dim, eps), pixel_norm(x.double(), dim, eps)
    assert_as_true_as_reference(ours, theirs, truth)


def test_third_order_is_refused_by_name(backend):
    if backend == "reference":
        pytest.skip("reference has every order")
    x = torch.randn(4, 2, 3, 3, device=OpTests.device(backend), requires_grad=True)
    (g,) = torch.autograd.grad(pixel_norm(x).pow(3).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="pixel_norm: the derivative of order 3 is not supported"):
        torch.autograd.grad(h.sum(), x)


def test_second_order_computes_only_what_is_asked_for(backend):
    if backend == "reference":
        pytest.skip("reference leaves pruning to PyTorch")
    x, gy = (torch.randn(2, 3, 4, 4, device=OpTests.device(backend), requires_grad=True) for _ in range(2))
    for wanted in ([True, False], [False, True]):
        (g,) = torch.autograd.grad(pixel_norm(x), x, gy, create_graph=True)
        calls = Calls()
        with calls:
            torch.autograd.grad(g.sum(), [gy if wanted[0] else x])
        (second,) = [args for name, args in calls.seen if "double_backward" in name]
        assert list(second["wanted"]) == wanted


@pytest.mark.skipif(gankernels._backend.native_error is not None, reason="gankernels._C is not built")
def test_direct_calls_are_checked():
    ops, x = torch.ops.gankernels_native, torch.randn(2, 3, 4, 4)
    for args, message in [((x, 4, 1e-8), "dim is 4"), ((x, -1, 1e-8), "dim is -1"), ((x, 1, 0.0), "eps is 0")]:
        with pytest.raises(ValueError, match=message):
            ops.pixel_norm(*args)
    for g, message in [(x[:1], "g has shape"), (x.double(), "g is Double")]:
        with pytest.raises(ValueError, match=message):
            ops.pixel_norm_backward(g, x, 1, 1e-8)
    with pytest.raises(ValueError, match="v has shape"):
        ops.pixel_norm_double_backward(x[:1], x, x, 1, 1e-8, [True, True])


def test_module():
    layer, x = PixelNorm(2, eps=0.1), torch.randn(4, 6, 3, 3)
    assert layer(x).equal(pixel_norm(x, 2, 0.1))
    assert repr(layer) == "PixelNorm(dim=2, eps=0.1)"
    assert not layer.state_dict()
