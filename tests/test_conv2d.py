import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference

import gankernels
from gankernels.ops import conv2d, conv_transpose2d

NATIVE = "gankernels_native::"
ALL = ("conv2d", "conv_transpose2d", "conv2d_weight_grad")
needs_native = pytest.mark.skipif(gankernels.why_not("cpu", "cpu") is not None, reason="the extension is not built")


def sample(x, weight, transposed=False, bias=True, **kwargs):
    tensors = {"x": torch.randn(x, dtype=torch.float64), "weight": torch.randn(weight, dtype=torch.float64)}
    if bias:
        channels = weight[1] * kwargs.get("groups", 1) if transposed else weight[0]
        tensors["bias"] = torch.randn(channels, dtype=torch.float64)
    return Sample(tensors, kwargs)


class ConvolutionTests(OpTests):
    overloads = ALL

    def check_pruned(self, calls: Calls, wanted: str):
        kinds = [name.split("::")[1].split(".")[0] for name, _ in calls.seen if name.startswith("gankernels")]
        other = "conv_transpose2d" if self.name == "conv2d" else "conv2d"
        expected = {"x": [other], "weight": ["conv2d_weight_grad"], "bias": []}
        assert kinds == expected[wanted], f"for {wanted} ran {kinds}"

    def bad_tensors(self, x, w):
        yield {"x": x.int(), "weight": w}, "x has dtype torch.int32"
        yield {"x": [1.0], "weight": w}, "x is list"
        yield {"x": x, "weight": None}, "weight is NoneType"
        yield {"x": x, "weight": w.double()}, "weight has dtype torch.float64"
        yield {"x": x, "weight": w.to("meta")}, "weight is on meta"
        yield {"x": x[0], "weight": w}, r"x has shape \[4, 6, 6\], expected 4 dimensions \[N, C, H, W\]"
        yield {"x": x, "weight": w[0]}, "weight has shape"
        yield {"x": x[:, :0], "weight": w}, "x has shape .* expected no empty dimension"
        yield {"x": x[..., :0], "weight": w}, "x has shape .* expected no empty dimension"
        yield {"x": x, "weight": w[..., :0]}, "weight has shape .* expected no empty dimension"
        yield {"x": x[:, :3], "weight": w}, "x has 3 channels, expected 4"
        yield {"x": x, "weight": w, "bias": torch.zeros(5)}, r"bias has shape \[5\], expected \[6\]"
        yield {"x": x, "weight": w, "bias": torch.zeros(6, 1)}, "bias has shape"
        yield {"x": x, "weight": w, "bias": torch.zeros(6).half()}, "bias has dtype torch.float16"
        yield {"x": x, "weight": w, "stride": 0}, "stride is 0"
        yield {"x": x, "weight": w, "stride": 1.5}, "stride is 1.5"
        yield {"x": x, "weight": w, "stride": (1, 2, 3)}, "stride is"
        yield {"x": x, "weight": w, "dilation": 0}, "dilation is 0"
        yield {"x": x, "weight": w, "padding": -1}, "padding is -1"
        yield {"x": x, "weight": w, "groups": 0}, "groups is 0"
        yield {"x": x, "weight": w, "groups": 3}, "groups|channels"
        yield {"x": x, "weight": w, "groups": True}, "groups is True"


class TestConv2d(ConvolutionTests):
    name = "conv2d"
    thread_tolerance = 1e-5  # oneDNN cuts its sums by the number of threads

    def samples(self):
        yield sample((2, 4, 6, 5), (6, 4, 3, 3), padding=1)
        yield sample((2, 3, 7, 6), (4, 3, 4, 4), stride=2, padding=1)
        yield sample((0, 3, 4, 4), (4, 3, 3, 3))
        yield sample((2, 3, 4, 4), (2, 3, 4, 4), bias=False)
        yield sample((1, 2, 1, 1), (2, 2, 1, 1))
        yield sample((2, 4, 9, 8), (6, 2, 2, 3), stride=(1, 3), padding=(2, 0), dilation=(2, 1), groups=2, bias=False)
        yield sample((1, 3, 5, 6), (3, 1, 3, 2), groups=3, padding="same")
        yield sample((1, 2, 5, 4), (1, 2, 1, 2), padding="valid", stride=[2])

    def bad(self):
        x, w = torch.randn(2, 4, 6, 6), torch.randn(6, 4, 3, 3)
        yield from self.bad_tensors(x, w)
        yield {"x": x, "weight": w[..., :1].repeat(1, 1, 1, 7)}, "result would have 4 rows and 0 columns"
        yield {"x": x, "weight": torch.randn(5, 2, 3, 3), "groups": 2}, "groups is 2, expected a divisor"
        yield {"x": x, "weight": w, "padding": "full"}, "padding is 'full'"
        yield {"x": x, "weight": w, "padding": "same", "stride": 2}, "needs stride 1"


class TestConvTranspose2d(ConvolutionTests):
    name = "conv_transpose2d"
    thread_tolerance = 1e-5  # as above

    def samples(self):
        def transposed(*args, **kwargs):
            return sample(*args, transposed=True, **kwargs)

        yield transposed((2, 4, 3, 5), (4, 3, 4, 4), stride=2, padding=1)
        yield transposed((2, 3, 4, 4), (3, 4, 3, 3), stride=2, padding=1, output_padding=1)
        yield transposed((0, 3, 4, 4), (3, 4, 3, 3), stride=2)
        yield transposed((2, 5, 1, 1), (5, 3, 4, 4), bias=False)
        yield transposed((1, 2, 1, 1), (2, 2, 1, 1))
        yield transposed((2, 4, 3, 4), (4, 3, 2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2), groups=2)
        yield transposed((1, 2, 4, 3), (2, 3, 2, 3), stride=(2, 1), padding=2, dilation=3, output_padding=2, bias=False)
        yield transposed((1, 3, 2, 3), (3, 1, 1, 2), stride=3, groups=3)

    def bad(self):
        x, w = torch.randn(2, 4, 6, 6), torch.randn(4, 6, 3, 3)
        yield from self.bad_tensors(x, w)
        yield {"x": x, "weight": w, "output_padding": 1}, "output_padding is .1, 1., expected less than"
        yield {"x": x, "weight": w, "output_padding": -1}, "output_padding is -1"
        yield {"x": x, "weight": w, "padding": 4}, "result would have 0 rows"
        yield {"x": x, "weight": w, "padding": "same"}, "padding is 'same'"


@st.composite
def geometries(draw):
    """A convolution of either kind, with channels and sizes that reach every route of the kernels."""
    two = lambda low, high: [draw(st.integers(low, high)) for _ in range(2)]  # noqa: E731
    stride, dilation, padding, kernel = two(1, 3), two(1, 2), two(0, 3), two(1, 5)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    i, o = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 9))
    shape = (draw(st.integers(1, 3)), i, draw(st.integers(1, 20)), draw(st.integers(1, 70)))
    kwargs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if draw(st.booleans()):
        kwargs["output_padding"] = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        size = [
            (h - 1) * s - 2 * p + d * (k - 1) + 1
            for h, s, p, d, k in zip(shape[2:], stride, padding, dilation, kernel, strict=True)
        ]
        hypothesis.assume(min(size) > 0)
        return conv_transpose2d, F.conv_transpose2d, shape, (i, o // groups, *kernel), o, kwargs
    size = [h + 2 * p - d * (k - 1) for h, p, d, k in zip(shape[2:], padding, dilation, kernel, strict=True)]
    hypothesis.assume(min(size) > 0)
    return conv2d, F.conv2d, shape, (o, i // groups, *kernel), o, kwargs


@needs_native
@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.filter_too_much])
@hypothesis.given(geometries(), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_any_geometry_in_value_and_both_orders(geometry, with_bias, channels_last, seed):
    ours, theirs, x_shape, w_shape, channels, kwargs = geometry
    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(x_shape).contiguous(memory_format=layout)
    w, b = torch.randn(w_shape), torch.randn(channels) if with_bias else None

    def run(f, dtype, size=lambda t: t):
        leaves = [size(t).to(dtype).requires_grad_() for t in (x, w, b) if t is not None]
        y = f(*leaves, **kwargs) if with_bias else f(*leaves, None, **kwargs)
        draw = torch.Generator().manual_seed(seed)
        gy = size(torch.randn(y.shape, generator=draw)).to(dtype).requires_grad_()
        results = [y, *torch.autograd.grad(y, leaves, gy, create_graph=True)]
        for g in results[1:3]:  # each apart, so that an error in a small one is not lost in a sum
            h = size(torch.randn(g.shape, generator=draw)).to(dtype)
            second = torch.autograd.grad(g, [*leaves[:2], gy], h, allow_unused=True, retain_graph=True)
            results += [t for t in second if t is not None]
        return results

    with gankernels.backend("cpu"):
        results = run(ours, torch.float32)
    # All are sums of products, so magnitudes in give the sum of the terms' magnitudes, the scale of rounding errors.
    scales = run(theirs, torch.float64, torch.abs)
    for a, t, scale in zip(results, run(theirs, torch.float64), scales, strict=True):
        assert a.shape == t.shape
        assert ((a - t).abs() <= 8 * torch.finfo(a.dtype).eps * scale).all()


def operands(transposed, dtype=torch.float32):
    x = torch.randn(2, 3, 6, 8, dtype=dtype, requires_grad=True)
    w = torch.randn(3, 4, 4, 4, dtype=dtype) if transposed else torch.randn(4, 3, 4, 4, dtype=dtype)
    return x, w.requires_grad_(), torch.randn(4, dtype=dtype, requires_grad=True)


def native_calls(f):
    calls = Calls()
    with calls:
        result = f()
    assert not [n for n in calls.names() if n.startswith("aten::") and "conv" in n], "a convolution that is not ours"
    return result, sorted(n.split("::")[1].split(".")[0] for n, _ in calls.seen if n.startswith(NATIVE))


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_double_backward_runs_only_what_is_asked_for(transposed):
    this, other = ("conv_transpose2d", "conv2d") if transposed else ("conv2d", "conv_transpose2d")
    x, w, b = operands(transposed)
    with gankernels.backend("cpu"):
        y = (conv_transpose2d if transposed else conv2d)(x, w, b, stride=2, padding=1)
    gy = torch.randn_like(y, requires_grad=True)

    def grads(outputs, inputs, cotangents, create_graph=True):
        return lambda: torch.autograd.grad(outputs, inputs, cotangents, create_graph=create_graph, retain_graph=True)

    (gx,), ran = native_calls(grads(y, [x], gy))
    assert ran == [other]
    (gw,), ran = native_calls(grads(y, [w], gy))
    assert ran == ["conv2d_weight_grad"]
    # R1: the parameters' gradient of a function of gx. It needs ggx * w only where gy depends on parameters.
    assert native_calls(grads(gx, [w], x.detach()))[1] == ["conv2d_weight_grad"]
    assert native_calls(grads(gx, [gy], x.detach()))[1] == [this]
    assert native_calls(grads(gw, [x], w.detach()))[1] == [other]
    assert native_calls(grads(gw, [gy], w.detach()))[1] == [this]
    assert native_calls(grads([gx, gw], [x, w, gy], [x.detach(), w.detach()]))[1] == sorted(
        [this, other, "conv2d_weight_grad", this]
    )


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_the_profiler_sees_no_weight_gradient_that_was_not_asked_for(transposed):
    x, w, b = operands(transposed)
    with gankernels.backend("cpu"):
        y = (conv_transpose2d if transposed else conv2d)(x, w, b, stride=2, padding=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
        torch.autograd.grad(y.square().sum(), [x])
    names = {e.key for e in p.key_averages()}
    assert any("conv" in n for n in names)
    assert not any("weight_grad" in n or "backward_weight" in n for n in names), names


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_a_frozen_weight_keeps_no_activations(transposed):
    x, w, _ = operands(transposed)
    kept = []
    with (
        gankernels.backend("cpu"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        (conv_transpose2d if transposed else conv2d)(x, w.detach())
    assert [t.shape for t in kept] == [w.shape]


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_third_order(transposed):
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    f = conv_transpose2d if transposed else conv2d

    def second(x, w):
        y = f(x, w, stride=2, padding=1)
        g = torch.autograd.grad(y.pow(3).sum(), [x, w], create_graph=True)
        return torch.autograd.grad(g[0].pow(2).sum() + g[1].pow(2).sum(), [x, w], create_graph=True)

    with gankernels.backend("cpu"):
        assert torch.autograd.gradcheck(second, (x, w))


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("last", ["x", "weight", "neither"])
def test_memory_format(transposed, last):
    x, w, _ = operands(transposed)
    if last != "neither":
        x, w = (
            t.contiguous(memory_format=torch.channels_last) if n == last else t for n, t in (("x", x), ("weight", w))
        )
    ours, theirs = (conv_transpose2d, F.conv_transpose2d) if transposed else (conv2d, F.conv2d)
    with gankernels.backend("cpu"):
        y = ours(x, w, stride=2, padding=1)
        fake = torch.compile(lambda x, w: ours(x, w, stride=2, padding=1), backend="aot_eager", fullgraph=True)(x, w)
    assert y.stride() == theirs(x, w, stride=2, padding=1).stride() == fake.stride()


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_vmap_over_everything_and_over_the_cotangents(transposed):
    f = conv_transpose2d if transposed else conv2d
    x, w, b = (t.detach() for t in operands(transposed))
    xs, ws, bs = (torch.stack([t, 2 * t, t.flip(0)], dim=1) for t in (x, w, b))
    with gankernels.backend("cpu"):
        call = lambda x, w, b: f(x, w, b, stride=2, padding=1)  # noqa: E731
        y = torch.func.vmap(call, in_dims=1)(xs, ws, bs)
        torch.testing.assert_close(y, torch.stack([call(xs[:, k], ws[:, k], bs[:, k]) for k in range(3)]))
        x.requires_grad_()
        w.requires_grad_()
        y = call(x, w, b)
        gys = torch.randn(3, *y.shape)
        gx, gw = torch.autograd.grad(y, [x, w], gys, is_grads_batched=True, retain_graph=True)
        for k in range(3):
            one_x, one_w = torch.autograd.grad(y, [x, w], gys[k], retain_graph=True)
            torch.testing.assert_close(gx[k], one_x, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(gw[k], one_w, rtol=1e-4, atol=1e-4)


# Shapes of the models, in which each route of the cpu kernels is taken at full tiles.
MODELS = [
    (conv_transpose2d, (3, 64, 32, 32), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
    (conv_transpose2d, (2, 16, 64, 64), (16, 16, 3, 3), {"stride": 2}),
    (conv_transpose2d, (2, 100, 1, 1), (100, 64, 4, 4), {}),
    (conv2d, (2, 64, 4, 4), (1, 64, 4, 4), {}),
    (conv2d, (2, 3, 64, 64), (64, 3, 4, 4), {"stride": 2, "padding": 1}),
    (conv2d, (1, 40, 65, 65), (64, 40, 3, 3), {"stride": 2}),
    (conv2d, (1, 64, 50, 50), (3, 64, 1, 1), {}),
    (conv2d, (1, 3, 50, 50), (64, 3, 1, 1), {}),
    # One product over patches: few positions, many weights; each side's rows and columns fall outside differently.
    (conv2d, (2, 64, 7, 9), (128, 64, 4, 4), {"stride": 2, "padding": 1}),
    (conv2d, (1, 64, 10, 9), (64, 64, 3, 2), {"stride": (3, 2), "padding": (4, 1), "dilation": (2, 3)}),
    (conv_transpose2d, (2, 128, 3, 4), (128, 64, 4, 4), {"stride": 2, "padding": 1, "output_padding": (1, 0)}),
    (conv_transpose2d, (3, 64, 2, 3), (64, 70, 3, 5), {"stride": (1, 3), "padding": (0, 4), "dilation": (1, 2)}),
]


@needs_native
@pytest.mark.parametrize("case", MODELS, ids=lambda c: f"{c[0].__name__}-{c[1]}-{c[2]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d)[6:])
def test_shapes_of_models(case, dtype):
    f, x_shape, w_shape, kwargs = case
    x, w = torch.randn(x_shape, dtype=dtype), torch.randn(w_shape, dtype=dtype) / 8
    bias = torch.randn(w_shape[f is conv_transpose2d], dtype=dtype)

    def run(backend, dtype):
        with gankernels.backend(backend):
            leaves = [t.to(dtype).requires_grad_() for t in (x, w, bias)]
            y = f(*leaves, **kwargs)
            gy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            return [y, *torch.autograd.grad(y, leaves, gy)]

    for a, r, t in zip(run("cpu", dtype), run("reference", dtype), run("reference", torch.float64), strict=True):
        assert_as_true_as_reference(a, r, t)


@needs_native
def test_a_layer_whose_sizes_multiply_past_64_bits():
    x = torch.randn(4, 1024, 32, 32)
    w = torch.randn(1024, 1024, 1, 1, requires_grad=True)
    with gankernels.backend("cpu"):
        (ours,) = torch.autograd.grad(conv2d(x, w).sum(), w)
    torch.testing.assert_close(ours[0, :, 0, 0], x.sum((0, 2, 3)), rtol=1e-3, atol=1e-2)


@needs_native
def test_direct_calls_are_checked():
    x, w = torch.randn(1, 3, 16, 16), torch.randn(8, 3, 3, 3)
    ones = [1, 1]
    call = torch.ops.gankernels_native.conv2d
    for bias, size, message in (
        (torch.zeros(1), [16, 16], "bias has shape"),
        (None, [16], "expected two numbers"),
        (None, [40, 40], "size is"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, w, bias, ones, ones, ones, 1, size)
    with pytest.raises(ValueError, match="expected two numbers"):
        torch.ops.gankernels_native.conv2d_weight_grad(x, x, ones, ones, ones, 1, [3])
