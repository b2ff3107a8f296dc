import pytest
import torch
from op_tests import Calls, OpTests, Sample

from gankernels.ops import gradient_reversal


def random(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


class Plain(OpTests):
    """An operator that is PyTorch on every backend: no kernel of ours may run, and torch.func works."""

    def check_pruned(self, calls: Calls, wanted: str):
        assert not {n for n in calls.names() if n.startswith("gankernels")}

    def test_forced_backend_runs_its_kernel(self, backend):
        calls = Calls()
        with calls:
            s = self.first(backend)
            self.gradients(self.call(s), s)
        self.check_pruned(calls, "")

    test_forced_backend_stays_with_its_graph = test_forced_backend_runs_its_kernel

    def test_functional_derivatives_are_refused_by_name(self, backend):
        """They are not: they agree with autograd's."""
        s = self.first(backend)
        name = next(iter(s.tensors))
        rest = {k: t.detach() for k, t in s.tensors.items() if k != name}
        g = torch.func.grad(lambda t: self.op(**{name: t}, **rest, **s.kwargs).sum())(s.tensors[name].detach())
        torch.testing.assert_close(g, torch.autograd.grad(self.call(s).sum(), s.tensors[name])[0])

    def test_opcheck(self):
        pytest.skip("PyTorch's operators on every backend: none of its own is registered")

    def test_compile_follows_the_forced_backend(self):
        pytest.skip("the same operators of PyTorch on every backend: no choice to follow")


class TestGradientReversal(Plain):
    name = "gradient_reversal"

    def samples(self):
        yield Sample({"x": random(2, 3, 4, 5)}, {"lam": 0.25})
        yield Sample({"x": random(2, 3, 4, 5, last=True)}, {"lam": -3})
        yield Sample({"x": random(7)})
        yield Sample({"x": random()}, {"lam": 0.0})
        yield Sample({"x": random(0, 3)}, {"lam": 2.0})

    def bad(self):
        x = torch.randn(2, 3)
        yield {"x": x.int()}, "x has dtype torch.int32"
        yield {"x": [1.0]}, "x is list"
        for lam in (float("inf"), float("nan"), "1", None):
            yield {"x": x, "lam": lam}, f"lam is {lam!r}"

    def test_gradcheck(self, backend):
        """Its derivative is not that of its values; that of two, the second by 1/lam, is."""
        (x,) = self.first(backend, torch.float64).tensors.values()

        def twice(x):
            return self.op(x=self.op(x=x, lam=0.25), lam=4.0) ** 3

        assert torch.autograd.gradcheck(twice, x)
        assert torch.autograd.gradgradcheck(twice, x)
        with pytest.raises(RuntimeError, match="Jacobian mismatch"):
            torch.autograd.gradcheck(lambda x: self.op(x=x, lam=0.25), x)


@pytest.mark.parametrize("compiler", [None, "aot_eager"])
def test_gradient_reversal(compiler):
    def f(x):
        return (gradient_reversal(x, 0.25) ** 3).sum()

    run = torch.compile(f, backend=compiler, fullgraph=True) if compiler else f
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(run(x), (x**3).sum())
    torch.testing.assert_close(torch.autograd.grad(run(x), x)[0], -0.25 * 3 * x**2)


def test_gradient_reversal_in_higher_orders_and_transforms():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((gradient_reversal(x, 2.0) ** 3).sum(), x, create_graph=True)
    # 3 x^2 of the reversed x again: each way back through it turns the sign.
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], -2.0 * -2.0 * 6 * x)
    torch.testing.assert_close(torch.func.grad(lambda t: gradient_reversal(t, 2.0).sum())(x.detach()), -2 * x * 0 - 2)
    torch.testing.assert_close(torch.func.vmap(gradient_reversal)(x), x)
    assert gradient_reversal(x).data_ptr() == x.data_ptr()
