import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, on_each_backend

import gankernels
from gankernels.ops import maxout


def random(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


class TestMaxout(OpTests):
    name = "maxout"
    overloads = ("maxout", "maxout_scatter", "maxout_gather")

    def samples(self):
        yield Sample({"x": random(2, 6, 3, 4)}, {"pieces": 3})
        yield Sample({"x": random(2, 6, 3, 4, last=True)}, {"pieces": 2})
        yield Sample({"x": random(0, 4, 2, 2)}, {"pieces": 4})
        yield Sample({"x": random(3, 5)}, {"pieces": 5})
        yield Sample({"x": random(2, 3, 4)}, {"pieces": 2, "dim": -1})
        yield Sample({"x": random(2, 8, 4, 2)}, {"pieces": 4})
        yield Sample({"x": random(1, 2, 1, 3, last=True)}, {"pieces": 2})
        yield Sample({"x": random(2, 300, 1, 2)}, {"pieces": 300})

    def bad(self):
        x = torch.randn(2, 6)
        yield {"x": x.int(), "pieces": 2}, "x has dtype torch.int32"
        yield {"x": 1.0, "pieces": 2}, "x is float"
        yield {"x": x, "pieces": 4}, "x has 6 channels, expected a multiple of pieces = 4"
        yield {"x": x, "pieces": 0}, "pieces is 0, expected an integer of 1 or more"
        yield {"x": x, "pieces": 2.0}, "pieces is 2.0"
        yield {"x": x, "pieces": 2, "dim": 2}, "dim is 2"

    def opchecks(self, backend):
        """The transpose of the scatter too, which a maximum's own second derivative does not need."""
        for overload, args in super().opchecks(backend):
            yield overload, args
            if "scatter" in str(overload):
                space = getattr(torch.ops, str(overload).split(".")[0])
                yield space.maxout_gather.default, (overload(*args).detach(), *args[1:])

    def check_pruned(self, calls: Calls, wanted: str):
        assert [name for name, _ in calls.seen if "maxout" in name] == [
            name for name, _ in calls.seen if "maxout_scatter" in name
        ]


def test_maxout_takes_neighbours():
    x = torch.tensor([[1.0, 5.0, 2.0, -1.0, -4.0, -2.0]])
    assert maxout(x, 3).tolist() == [[5.0, -1.0]]


backend = on_each_backend("maxout")


def test_nan_is_the_largest_and_the_first_of_equals_has_the_gradient(backend):
    nan = float("nan")
    x = torch.tensor([[1.0, 1.0, 0.5, nan, 9.0, nan, -0.0, 0.0, 0.0]], device=OpTests.device(backend)).requires_grad_()
    y = maxout(x, 3)
    assert torch.equal(y.isnan(), torch.tensor([[False, True, False]], device=x.device))
    (g,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2.0, 3.0]], device=x.device))
    assert g.tolist() == [[1, 0, 0, 2, 0, 0, 3, 0, 0]]


def test_memory_format_is_kept(backend):
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend)).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y = maxout(x, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (g,) = torch.autograd.grad(y.square().sum(), x)
    assert backend == "reference" or g.is_contiguous(memory_format=torch.channels_last)
    assert maxout(x, 2, 2).is_contiguous()


def test_what_autograd_keeps_is_a_byte_a_result(backend):
    if backend == "reference":
        pytest.skip("PyTorch keeps 8")
    kept = []
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        maxout(x, 2)
    assert [(t.dtype, tuple(t.shape)) for t in kept] == [(torch.uint8, (2, 4, 4, 6))]


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.lists(st.integers(0, 5), min_size=0, max_size=2), st.integers(1, 3), st.integers(1, 9),
    st.lists(st.integers(0, 40), min_size=0, max_size=2), st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(), st.integers(0, 10**6),
)  # fmt: skip
def test_any_shape(before, channels, pieces, after, dtype, last, seed):
    torch.manual_seed(seed)
    x = torch.randint(-3, 4, (*before, channels * pieces, *after)).to(dtype)
    if last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for name in ("cpu", "reference"):
        t = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with gankernels.backend(name):
            y = maxout(t, pieces, len(before))
            w = torch.arange(y.numel(), dtype=dtype).view(y.shape).requires_grad_()
            (g,) = torch.autograd.grad(y, t, w, create_graph=True)
            results.append((y, g, *torch.autograd.grad(g.square().sum(), w)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
