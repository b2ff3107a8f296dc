import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference

import gankernels
from gankernels.ops import bias_act
from gankernels.ops.bias_act import ACTIVATIONS


def sample(shape, bias=True, dim=1, scale=2.0, **kwargs):
    x = torch.randn(shape, dtype=torch.float64) * scale
    x = x + 0.05 * x.sign()  # off the kinks, where finite differences mean nothing
    tensors = {"x": x}
    if bias:
        tensors["bias"] = torch.linspace(-0.03, 0.04, shape[dim], dtype=torch.float64)  # a wrong index shows
    return Sample(tensors, {"dim": dim, **kwargs})


class TestBiasAct(OpTests):
    name = "bias_act"
    overloads = ("bias_act", "bias_act_derivative")

    def samples(self):
        yield sample((2, 3, 4, 5), act="lrelu")
        yield sample((2, 3, 4, 5), act="swish", clamp=1.5)
        yield sample((0, 3, 4, 4), act="lrelu")
        yield sample((2, 1, 1, 1), act="relu")
        yield sample((3, 5), act="lrelu", clamp=0.9, gain=1.0)
        yield sample((2, 3, 9, 9), act="lrelu", alpha=0.0)
        yield sample((2, 3, 9, 7), act="lrelu", alpha=-0.3, gain=-1.7)
        yield sample((7,), dim=0, act="tanh", gain=1.3)
        yield sample((2, 4, 3), dim=-1, act="sigmoid")
        yield sample((2, 3, 2, 2, 2), act="softplus", bias=False)
        yield sample((1, 2, 11, 13), act="linear", clamp=0.7)
        yield sample((1, 2, 3, 3), act="linear", gain=2.0)
        for act in ACTIVATIONS:  # several channels: the bound of a bias's gradient hangs on the luck of their sums
            yield sample((1, 6, 3, 5), act=act, scale=1.0)

    def bad(self):
        x = torch.randn(2, 3, 4, 4)
        yield {"x": x.int()}, "x has dtype torch.int32"
        yield {"x": [1.0]}, "x is list"
        yield {"x": x, "act": "gelu"}, "act is 'gelu'"
        yield {"x": x, "act": ["relu"]}, "act is "
        yield {"x": x, "dim": 4}, "dim is 4"
        yield {"x": x, "dim": "1"}, "dim is '1'"
        yield {"x": torch.tensor(1.0)}, "dim is 1"
        yield {"x": x, "bias": torch.zeros(4)}, r"bias has shape \[4\], expected \[3\]"
        yield {"x": x, "bias": torch.zeros(3, 1)}, "bias has shape"
        yield {"x": x, "bias": torch.zeros(3, dtype=torch.float64)}, "bias has dtype"
        yield {"x": x, "bias": torch.zeros(3, device="meta")}, "bias is on meta"
        yield {"x": x, "gain": float("inf")}, "gain is inf"
        yield {"x": x, "alpha": float("nan")}, "alpha is nan"
        yield {"x": x, "clamp": -1}, "clamp is -1"

    @pytest.mark.parametrize("act", ["relu", "lrelu", "elu", "selu"])
    def test_derivatives_at_the_kink(self, backend, act):
        """At 0, where a bias or scale of 0 puts whole channels: PyTorch's slope and curvature, whichever side's."""
        x, b = torch.tensor([[-0.5, 0.0, 0.25], [0.5, 0.0, 0.0]]), torch.tensor([0.5, 0.0, -0.25])

        def derivatives():
            u = x.to(self.device(backend)).requires_grad_()
            g = torch.full_like(u, 0.5, requires_grad=True)
            out = [bias_act(u, b.to(u), act=act)]
            for leaves in ([u], [u, g], [u, g]):
                grads = torch.autograd.grad(out[-1], leaves, g, create_graph=True, materialize_grads=True)
                out.append(grads[0])
                if not grads[0].requires_grad:
                    break
            return [t.detach() for t in out]

        ours = derivatives()
        with gankernels.backend("reference"):
            theirs = derivatives()
        assert len(ours) >= 2
        for order, (a, r) in enumerate(zip(ours, theirs, strict=False)):
            torch.testing.assert_close(a, r, rtol=1e-6, atol=1e-6, msg=lambda m, order=order: f"order {order}: {m}")

    def check_pruned(self, calls: Calls, wanted: str):
        derivatives = [args for name, args in calls.seen if "bias_act_derivative" in name]
        assert len(derivatives) == 1
        assert derivatives[0]["want_full"] == (wanted == "x")
        assert derivatives[0]["want_bias"] == (wanted == "bias")


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradient_at_the_clamp_is_that_of_torch_clamp(act):
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)
    bound = float(bias_act(x[20:21], dim=0, act=act).abs())
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    bias_act(ours, dim=0, act=act, clamp=bound).sum().backward()
    with gankernels.backend("reference"):
        bias_act(theirs, dim=0, act=act, clamp=bound).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12)


@pytest.mark.parametrize("act", ["tanh", "sigmoid", "elu", "selu", "softplus", "swish"])
def test_third_order_and_the_fourth_refused(act):
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)
    with gankernels.backend("cpu"):

        def second(x, b):
            g = torch.autograd.grad(bias_act(x, b, act=act).pow(2).sum(), [x, b], create_graph=True)
            return torch.autograd.grad(g[0].pow(2).sum() + g[1].pow(2).sum(), [x, b], create_graph=True)

        assert torch.autograd.gradcheck(second, (x, b))
        if act in ("tanh", "sigmoid"):  # polynomials of their output: every order
            assert torch.autograd.gradgradcheck(second, (x, b), atol=1e-3)
            return
        third = torch.autograd.grad(sum(t.pow(3).sum() for t in second(x, b)), [x], create_graph=True)[0]
        with pytest.raises(RuntimeError, match="order 4"):
            torch.autograd.grad(third.sum(), [x])


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(st.integers(0, 9), min_size=2, max_size=4),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.floats(-2, 2),
    st.floats(-3, 3),
    st.one_of(st.none(), st.floats(0, 3)),
    st.integers(0, 10**6),
)
def test_any_shape_and_number(shape, act, alpha, gain, clamp, seed):
    torch.manual_seed(seed)
    shape[1] = max(shape[1], 1)  # no channels are refused
    x, b = torch.randn(shape), torch.randn(shape[1])
    kwargs = {"act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    with gankernels.backend("cpu"):
        ours = bias_act(x, b, **kwargs)
    with gankernels.backend("reference"):
        theirs, truth = bias_act(x, b, **kwargs), bias_act(x.double(), b.double(), **kwargs)
    assert_as_true_as_reference(ours, theirs, truth)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_extreme_and_non_finite_inputs(act):
    x = torch.tensor([-1e30, -90.0, -88.0, -20.0, -1e-30, 0.0, 1e-30, 0.3, 20.0, 21.0, 90.0, 1e30])
    with gankernels.backend("cpu"):
        ours = bias_act(x, dim=0, act=act)
        nan = bias_act(torch.tensor([float("nan")] * 9), dim=0, act=act, clamp=1.0)
    with gankernels.backend("reference"):
        truth = bias_act(x.double(), dim=0, act=act)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=1e-42)
    assert nan.isnan().all()


@pytest.mark.parametrize("act", ["tanh", "sigmoid"])
def test_saturated_slopes_in_16_bits(act):
    x = torch.full((1, 1, 8), 9.0, dtype=torch.bfloat16, requires_grad=True)
    with gankernels.backend("cpu"):
        (ours,) = torch.autograd.grad(bias_act(x, act=act, gain=1.3).sum(), x)
    (truth,) = torch.autograd.grad((getattr(torch, act)(x.double()) * 1.3).sum(), x)
    torch.testing.assert_close(ours.double(), truth.double(), rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3, 300, 300), (2, 700, 3), (5, 3), (40000, 3), (1, 70000, 2), (3, 64, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_that_cross_blocks_and_units(shape, dtype):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    b = torch.randn(shape[1], dtype=dtype, requires_grad=True)
    gy = torch.randn(shape, dtype=dtype)

    def run(x, b, gy):
        y = bias_act(x, b, act="swish", clamp=2.0)
        return [y, *torch.autograd.grad(y, [x, b], gy)]

    with gankernels.backend("cpu"):
        ours = run(x, b, gy)
    with gankernels.backend("reference"):
        theirs, truth = run(x, b, gy), run(x.double(), b.double(), gy.double())
    for a, r, t in zip(ours, theirs, truth, strict=True):
        assert_as_true_as_reference(a, r, t)
