import pytest
import torch
from op_tests import Calls, OpTests, Sample

import gankernels
from gankernels.ops import modulate_act

needs_native = pytest.mark.skipif(gankernels.why_not("cpu", "cpu") is not None, reason="the extension is not built")


def sample(x, *, scale=True, bias=True, noise=None, **kwargs):
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    tensors = {"x": draw(*x)}
    if scale:
        tensors["scale"] = draw(*x[:2])
    if bias:
        tensors["bias"] = draw(x[1])
    if noise is not None:
        tensors["noise"] = draw(*noise)
    return Sample(tensors, kwargs)


class TestModulateAct(OpTests):
    name = "modulate_act"
    overloads = ("modulate_act", "modulate_act_backward", "modulate_act_double_backward")
    layout_of = ("x", "scale", "noise")

    def samples(self):
        yield sample((2, 3, 5, 4), noise=(2, 1, 5, 4), act="lrelu")
        yield sample((2, 3, 4, 3), noise=(4, 3), act="swish", clamp=1.5)
        yield sample((3, 2, 1, 1), noise=(), act="tanh", gain=-0.7)
        yield sample((1, 5, 3, 3), bias=False)
        yield sample((2, 2, 3, 2), scale=False, noise=(1, 1, 3, 1), act="softplus")
        yield sample((2, 2, 2, 3), scale=False, bias=False, act="lrelu", alpha=-0.3, clamp=0.8)
        yield sample((0, 3, 4, 4), noise=(4, 4), act="elu")

    def bad(self):
        x = torch.randn(2, 3, 4, 5)
        yield {"x": x.int()}, "x has dtype torch.int32"
        yield {"x": x[0]}, "x has shape"
        yield {"x": x, "scale": torch.ones(3)}, r"scale has shape \[3\], expected \[2, 3\]"
        yield {"x": x, "scale": 2.0}, "scale is float"
        yield {"x": x, "scale": torch.ones(2, 3, device="meta")}, "scale is on meta"
        yield {"x": x, "scale": torch.ones(2, 3).double()}, "scale has dtype torch.float64"
        yield {"x": x, "bias": torch.ones(4)}, r"bias has shape \[4\], expected \[3\]"
        yield {"x": x, "bias": torch.ones(3).int()}, "bias has dtype torch.int32"
        yield {"x": x, "noise": torch.ones(2, 3, 4, 5)}, r"noise has shape .* broadcasts to \[2, 1, 4, 5\]"
        yield {"x": x, "noise": torch.ones(1, 1, 1, 4, 5)}, "noise has shape"
        yield {"x": x, "noise": torch.ones(4)}, "noise has shape"
        yield {"x": x, "act": "gelu"}, "act is 'gelu'"
        yield {"x": x, "gain": float("nan")}, "gain is nan"
        yield {"x": x, "clamp": -1}, "clamp is -1"

    def check_pruned(self, calls: Calls, wanted: str):
        (args,) = [args for name, args in calls.seen if name.startswith("gankernels")]
        flags = dict(zip(("x", "scale", "noise", "bias"), args["wanted"], strict=True))
        assert {k for k, w in flags.items() if w} == {wanted}

    def opcheck_args(self, overload, args):
        """The second derivative's own derivative is refused."""
        if "double_backward" not in overload:
            return args
        return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)


@needs_native
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 40, 60), (1, 40, 3, 3), (3, 600, 2, 1), (2, 33, 50, 50)])
def test_every_way_through_the_loops(shape, channels_last):
    torch.manual_seed(0)
    n, c, h, w = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    leaves = [torch.randn(s, dtype=torch.float64) for s in (shape, (n, c), (c,), (n, 1, h, w))]
    leaves[0] = leaves[0].contiguous(memory_format=layout)
    results = {}
    for backend in ("reference", "cpu"):
        x, scale, bias, noise = (t.clone(memory_format=torch.preserve_format).requires_grad_() for t in leaves)
        with gankernels.backend(backend):
            y = modulate_act(x, scale, bias, noise=noise, act="swish", clamp=1.0)
        generator = torch.Generator().manual_seed(1)
        gy = torch.randn(y.shape, generator=generator, dtype=y.dtype).requires_grad_()
        first = torch.autograd.grad(y, [x, scale, bias, noise], gy, create_graph=True)
        total = sum((g * torch.randn(g.shape, generator=generator, dtype=g.dtype)).sum() for g in first)
        results[backend] = [y, *first, *torch.autograd.grad(total, [x, scale, bias, noise, gy])]
        assert y.is_contiguous(memory_format=layout)
    for ours, expected in zip(results["cpu"], results["reference"], strict=True):
        torch.testing.assert_close(ours, expected)


@needs_native
def test_keeps_no_image_where_no_derivative_needs_one():
    x, scale = torch.randn(2, 3, 4, 4, requires_grad=True), torch.ones(2, 3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        modulate_act(x, scale)
    assert x.shape not in kept


@needs_native
def test_the_third_derivative_is_refused_by_name():
    x, scale = torch.randn(2, 3, 4, 4, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    with gankernels.backend("cpu"):
        y = modulate_act(x, scale, act="swish")
    g = y
    for _ in range(2):
        (g,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="modulate_act: the third derivative is not supported"):
        torch.autograd.grad(g.square().sum(), x)


@needs_native
@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (3, 2, 1, 1), (70, 2, 2, 3), (2, 1, 30, 20), (0, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_power_of_a_weight(shape, dtype):
    check_power(shape, dtype, torch.ops.gankernels_native.weight_power)
    if dtype == torch.float64 and 0 not in shape:
        op = torch.ops.gankernels_native.weight_power
        torch.library.opcheck(op.default, (torch.randn(shape, dtype=dtype).requires_grad_(),))
        batch = torch.randn(*shape[:2], 3, *shape[2:])
        torch.testing.assert_close(torch.vmap(op, in_dims=2)(batch), batch.movedim(2, 0).square().sum([3, 4]))


def check_power(shape, dtype, op):
    w = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
    y = op(w)
    exact = w.detach().double().square().sum([2, 3])
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(y.double(), exact, rtol=1e-6 if dtype != torch.float64 else 1e-14, atol=0)
    g = torch.randn_like(y)
    expected = (2 * g[:, :, None, None] * w.detach()).to(dtype)
    torch.testing.assert_close(torch.autograd.grad(y, w, g)[0], expected)
    if dtype == torch.float64 and w.numel():
        assert torch.autograd.gradgradcheck(op, w)
