import math

import pytest
import torch
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference

import gankernels
from gankernels import ops


def sample(*shape, layout=torch.contiguous_format):
    return Sample({"x": torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)})


class PerSample(OpTests):
    def samples(self):
        yield sample(2, 3, 4, 5)
        yield sample(3, 4, 5, 3, layout=torch.channels_last)
        yield sample(0, 3, 4, 4)
        yield sample(2, 0, 3)
        yield sample(1, 1, 1, 1)
        yield sample(5)
        yield sample(4, 37)
        yield sample(2, 2, 3, 2, 2, layout=torch.channels_last_3d)

    def bad(self):
        yield {"x": torch.randn(2, 3).int()}, "x has dtype torch.int32"
        yield {"x": [1.0]}, "x is list"
        yield {"x": torch.tensor(1.0)}, r"x has shape \[\], expected \[N, ...\]"

    def check_pruned(self, calls: Calls, wanted: str):
        assert wanted == "x"

    def opchecks(self, backend):
        """The operators that its own derivatives call, and those of the next order."""
        yield from super().opchecks(backend)
        space = torch.ops.gankernels if backend == "triton" else torch.ops.gankernels_native
        device = self.device(backend)
        a, b = (torch.randn(3, 2, 5, device=device) for _ in range(2))
        g = torch.randn(3, device=device)
        more = {
            "dot_per_sample": (a, b, 0.5),
            "scale_per_sample": (a, g, -2.0),
            "norm_per_sample_backward": (g, a, a.flatten(1).norm(dim=1)),
        }
        for name in self.overloads:
            if name in more:
                yield getattr(space, name).default, more[name]

    def test_of_any_order(self, backend):
        if not self.has(backend, torch.float64):
            pytest.skip(f"{self.name} on {backend} has no float64")
        x = torch.randn(2, 3, dtype=torch.float64, device=self.device(backend), requires_grad=True)

        weights = torch.randn(2, 3, dtype=torch.float64, device=x.device)

        def second(x):
            (g,) = torch.autograd.grad(self.op(x=x).pow(2).sum(), x, create_graph=True)
            return torch.autograd.grad((g * weights).sum(), x, create_graph=True)[0]

        assert torch.autograd.gradcheck(second, x)
        assert torch.autograd.gradgradcheck(second, x, atol=1e-3)

    def test_non_finite_samples_stay_alone(self, backend):
        x = torch.ones(3, 2, 2, device=self.device(backend))
        x[1, 0, 0], x[2, 1, 1] = float("nan"), float("inf")
        y = self.op(x=x)
        assert y[0].isfinite()
        assert y[1].isnan()
        assert y[2] == math.inf


class TestSumSquaresPerSample(PerSample):
    name = "sum_squares_per_sample"
    overloads = ("sum_squares_per_sample", "scale_per_sample", "dot_per_sample")

    def test_by_hand(self, backend):
        x = torch.tensor([[3.0, 4.0], [1.0, -1.0]], device=self.device(backend), requires_grad=True)
        y = self.op(x=x)
        assert y.tolist() == [25.0, 2.0]
        (g,) = torch.autograd.grad(y, x, torch.tensor([1.0, 10.0]).to(x))
        assert g.tolist() == [[6.0, 8.0], [20.0, -20.0]]

    def test_squares_of_float16_do_not_overflow(self, backend):
        x = torch.full((2, 8), 400.0, dtype=torch.float16, device=self.device(backend))
        y = self.op(x=x)
        assert y.dtype == torch.float32
        assert y.tolist() == [8 * 400.0**2] * 2


class TestNormPerSample(PerSample):
    name = "norm_per_sample"
    overloads = ("norm_per_sample", "norm_per_sample_backward", "norm_per_sample_double_backward")

    def samples(self):
        """A sample of one number has the second derivative 0, of which only a rounding error can be had."""
        for s in super().samples():
            n, numel = s.tensors["x"].shape[0], s.tensors["x"].numel()
            yield sample(n, 2, 1, 1) if n == numel > 0 else s

    def test_by_hand(self, backend):
        x = torch.tensor([[3.0, 4.0], [0.0, -2.0]], device=self.device(backend), requires_grad=True)
        y = self.op(x=x)
        assert y.tolist() == [5.0, 2.0]
        (g,) = torch.autograd.grad(y, x, torch.tensor([5.0, 1.0]).to(x))
        torch.testing.assert_close(g, torch.tensor([[3.0, 4.0], [0.0, -1.0]]).to(x))

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_every_derivative_at_zero_is_zero(self, backend, order):
        x = torch.zeros(2, 4, dtype=torch.float32, device=self.device(backend), requires_grad=True)
        g = self.op(x=x)
        assert g.tolist() == [0.0, 0.0]
        for i in range(order):
            (g,) = torch.autograd.grad((g * torch.ones_like(g)).sum(), x, create_graph=i + 1 < order)
        assert g.tolist() == [[0.0] * 4] * 2

    def test_second_derivative_by_the_cotangent_at_zero_is_zero(self, backend):
        x = torch.zeros(1, 4, device=self.device(backend), requires_grad=True)
        gy = torch.ones(1, device=x.device, requires_grad=True)
        (g,) = torch.autograd.grad(self.op(x=x), x, gy, create_graph=True)
        assert torch.autograd.grad(g.sum(), gy)[0].tolist() == [0.0]


@pytest.mark.parametrize("name", ["sum_squares_per_sample", "norm_per_sample"])
@pytest.mark.parametrize("shape", [(1, 3, 181, 181), (2, 65537), (300, 7), (40000, 3), (3, 1023), (2, 1025)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_shapes_that_cross_blocks_and_pieces(name, shape, dtype):
    x, v = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)

    def run(x, v):
        x = x.detach().requires_grad_()
        y = getattr(ops, name)(x)
        gy = torch.linspace(-1, 1, len(y)).to(y).requires_grad_()
        (first,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, first, *torch.autograd.grad(first, [x, gy], v)]

    with gankernels.backend("cpu"):
        ours = run(x, v)
    with gankernels.backend("reference"):
        theirs, truth = run(x, v), run(x.double(), v.double())
    for a, r, t in zip(ours, theirs, truth, strict=True):
        assert_as_true_as_reference(a, r, t)
