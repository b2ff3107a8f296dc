import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels.nn import MinibatchStdDev
from gankernels.ops import minibatch_stddev


def sample(shape, last=False, **kwargs):
    x = torch.randn(shape, dtype=torch.float64) + 0.3
    return Sample({"x": x.contiguous(memory_format=torch.channels_last) if last else x}, kwargs)


class TestMinibatchStddev(OpTests):
    name = "minibatch_stddev"
    overloads = ("minibatch_stddev", "minibatch_stddev_backward", "minibatch_stddev_double_backward")

    def samples(self):
        yield sample((4, 2, 3, 4))
        yield sample((6, 4, 2, 3), group_size=3, num_channels=2)
        yield sample((6, 4, 2, 3), last=True, group_size=6, num_channels=2)
        yield sample((0, 3, 4, 4))
        yield sample((1, 2, 3, 3))
        yield sample((3, 2, 1, 1), group_size=None, num_channels=2)
        yield sample((2, 3, 5, 3), group_size=1)
        yield sample((5, 8, 3, 3), last=True, group_size=9)
        yield sample((2, 2, 0, 3))

    def bad(self):
        x = torch.randn(6, 4, 3, 3)
        yield {"x": x.int()}, "x has dtype torch.int32"
        yield {"x": [1.0]}, "x is list"
        yield {"x": x[0]}, r"x has shape \[4, 3, 3\], expected 4 dimensions"
        yield {"x": x}, "x has 6 samples and group_size is 4, expected a multiple of it; pass a divisor of 6, or None"
        yield {"x": x, "group_size": 0}, "group_size is 0, expected an integer of 1 or more, or None"
        yield {"x": x, "group_size": -2}, "group_size is -2"
        yield {"x": x, "group_size": 2.0}, "group_size is 2.0"
        yield {"x": x, "group_size": True}, "group_size is True"
        yield {"x": x, "group_size": 3, "num_channels": 3}, "x has 4 channels, expected a multiple of num_channels = 3"
        yield {"x": x, "group_size": 3, "num_channels": 0}, "num_channels is 0, expected an integer of 1 or more"
        yield {"x": x, "group_size": 3, "num_channels": "1"}, "num_channels is '1'"
        yield {"x": x[:, :0], "group_size": 3}, "x has 0 channels"

    def check_pruned(self, calls: Calls, wanted: str):
        assert len([name for name, _ in calls.seen if "minibatch_stddev_backward" in name]) == 1

    def opcheck_args(self, overload, args):
        """The second derivative has no derivative of its own: it is refused by name."""
        return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args) if "double" in overload else args


backend = on_each_backend("minibatch_stddev")


def test_a_batch_by_hand(backend):
    """Samples 0 and 2 are a group, and 1 and 3: the position in a group is the slow index."""
    x = torch.tensor([1.0, 10.0, 3.0, 30.0], device=OpTests.device(backend)).view(4, 1, 1, 1).expand(4, 2, 2, 2)
    y = minibatch_stddev(x, 2)
    assert y.shape == (4, 3, 2, 2)
    assert y[:, :2].equal(x)
    for n, deviation in enumerate([1.0, 10.0, 1.0, 10.0]):
        torch.testing.assert_close(y[n, 2], torch.full_like(y[n, 2], deviation))


def test_memory_format_is_kept(backend):
    x = torch.randn(4, 6, 5, 5, device=OpTests.device(backend))
    assert minibatch_stddev(x).is_contiguous()
    y = minibatch_stddev(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, minibatch_stddev(x))


def test_equal_samples_have_finite_derivatives(backend):
    """The deviation is sqrt(1e-8), not 0: its slope is finite."""
    x = torch.ones(4, 2, 3, 3, device=OpTests.device(backend), requires_grad=True)
    y = minibatch_stddev(x)
    torch.testing.assert_close(y[:, 2], torch.full_like(y[:, 2], 1e-4))
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert g.isfinite().all()
    assert h.isfinite().all()


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(8, 512, 4, 4), (4, 6, 40, 41), (36, 4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shapes_that_cross_blocks_and_pieces(dtype, shape, last):
    layout = torch.channels_last if last else torch.contiguous_format
    x, v = (torch.randn(shape, dtype=dtype).contiguous(memory_format=layout) + 3 for _ in range(2))
    gy = torch.randn(shape[0], shape[1] + 2, *shape[2:], dtype=dtype)

    def run(*tensors):
        x, gy, v = (t.detach().requires_grad_() for t in tensors)
        y = minibatch_stddev(x, None if shape[0] == 36 else 4, 2)
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, [x, gy], v)]

    with gankernels.backend("cpu"):
        ours = run(x, gy, v)
    with gankernels.backend("reference"):
        theirs, truth = run(x, gy, v), run(x.double(), gy.double(), v.double())
    for a, r, t in zip(ours, theirs, truth, strict=True):
        assert_as_true_as_reference(a, r, t)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6),
    st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
def test_any_shape(group, lots, channels, part, h, w, last, seed):
    torch.manual_seed(seed)
    x = torch.randn(group * lots, channels * part, h, w)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    with gankernels.backend("cpu"):
        ours = minibatch_stddev(x, group, channels)
    with gankernels.backend("reference"):
        theirs, truth = minibatch_stddev(x, group, channels), minibatch_stddev(x.double(), group, channels)
    assert_as_true_as_reference(ours, theirs, truth)


def test_third_order_is_refused_by_name(backend):
    if backend == "reference":
        pytest.skip("reference has every order")
    x = torch.randn(4, 2, 3, 3, device=OpTests.device(backend), requires_grad=True)
    (g,) = torch.autograd.grad(minibatch_stddev(x).pow(2).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="minibatch_stddev: the derivative of order 3 is not supported"):
        torch.autograd.grad(h.sum(), x)


def test_second_order_computes_only_what_is_asked_for(backend):
    if backend == "reference":
        pytest.skip("reference leaves pruning to PyTorch")
    x, gy = torch.randn(4, 2, 3, 3, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    x, gy = (t.to(OpTests.device(backend)) for t in (x, gy))
    for wanted in ([True, False], [False, True]):
        (g,) = torch.autograd.grad(minibatch_stddev(x), x, gy, create_graph=True)
        calls = Calls()
        with calls:
            torch.autograd.grad(g.sum(), [gy if wanted[0] else x])
        (second,) = [args for name, args in calls.seen if "double_backward" in name]
        assert list(second["wanted"]) == wanted


@pytest.mark.skipif(gankernels._backend.native_error is not None, reason="gankernels._C is not built")
def test_direct_calls_are_checked():
    ops, x, y = torch.ops.gankernels_native, torch.randn(4, 2, 3, 3), torch.randn(4, 3, 3, 3)
    for args, message in [
        ((x[0], 4, 1), "x has shape"),
        ((x, 3, 1), "x has 4 samples"),
        ((x, -1, 1), "group_size is -1"),
        ((x, 4, 0), "x has 2 channels"),
    ]:
        with pytest.raises(ValueError, match=message):
            ops.minibatch_stddev(*args)
    for gy, message in [(x, "gy has shape"), (y.double(), "gy is Double")]:
        with pytest.raises(ValueError, match=message):
            ops.minibatch_stddev_backward(gy, x, 4, 1)
    with pytest.raises(ValueError, match="v has shape"):
        ops.minibatch_stddev_double_backward(y, y, x, 4, 1, [True, True])


def test_module():
    layer = MinibatchStdDev(2, 3)
    x = torch.randn(4, 6, 3, 3)
    assert layer(x).equal(minibatch_stddev(x, 2, 3))
    assert MinibatchStdDev(None)(x).equal(minibatch_stddev(x, None))
    assert repr(layer) == "MinibatchStdDev(group_size=2, num_channels=3)"
    assert not layer.state_dict()
