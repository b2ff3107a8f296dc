import pytest
import torch
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference
from test_conv2d_resample import definition as resampled

import gankernels
from gankernels import ops
from gankernels.ops import modulated_conv2d, modulated_conv2d_act

needs_native = pytest.mark.skipif(gankernels.why_not("cpu", "cpu") is not None, reason="the extension is not built")


def sample(x, weight, noise=None, f=None, bias=False, input_gain=None, **kwargs):
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    tensors = {"x": draw(*x), "weight": draw(*weight), "styles": 1 + draw(*x[:2]) / 2}
    if bias:
        tensors["bias"] = draw(weight[0])
    if noise is not None:
        tensors["noise"] = draw(*noise)
    if input_gain is not None:
        tensors["input_gain"] = draw(*input_gain)
    fixed = {} if f is None else {"resample_filter": torch.rand(f, dtype=torch.float64) / 4}
    return Sample(tensors, kwargs, fixed)


def definition(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
               flip_weight=True, prenormalize=False, input_gain=None):  # fmt: skip
    """Each sample by its own weight, in float64."""
    if prenormalize:
        weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    w = weight * styles[:, None, :, None, None]
    if demodulate:
        w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    if input_gain is not None:
        w = w * torch.as_tensor(input_gain).expand(styles.shape)[:, None, :, None, None]
    padding = [padding] * 4 if isinstance(padding, int) else padding
    y = torch.cat(
        [resampled(x[i, None], w[i], resample_filter, up, down, padding, 1, flip_weight, False) for i in range(len(x))]
    )
    return y if noise is None else y + noise


def kinds(calls: Calls) -> list[str]:
    """The operators of ours that ran, without their namespace."""
    return [name.split("::")[1].split(".")[0] for name, _ in calls.seen if name.startswith("gankernels")]


class ModulatedTests(OpTests):
    thread_tolerance = 1e-4  # oneDNN cuts its sums by the number of threads

    def bad(self):
        x, w, s = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(2, 4)
        ok = {"x": x, "weight": w, "styles": s}
        yield {**ok, "x": x.int()}, "x has dtype torch.int32"
        yield {**ok, "x": x[0]}, "x has shape"
        yield {**ok, "weight": w.double()}, "weight has dtype torch.float64"
        yield {**ok, "weight": w[0]}, "weight has shape"
        yield {**ok, "weight": w[:, :0]}, "weight has shape .* expected no empty"
        yield {**ok, "weight": w[:, :2]}, "x has 4 channels, expected 2"
        yield {**ok, "weight": w.to("meta")}, "weight is on meta"
        yield {**ok, "styles": s[:1]}, r"styles has shape \[1, 4\], expected \[2, 4\]"
        yield {**ok, "styles": s.int()}, "styles has dtype torch.int32"
        yield {**ok, "styles": None}, "styles is NoneType"
        yield {**ok, "noise": torch.randn(6, 6)}, r"noise has shape .* broadcasts to \[2, 1, 4, 4\]"
        yield {**ok, "noise": torch.randn(2, 5, 4, 4)}, "noise has shape"
        yield {**ok, "up": 0}, "up is 0"
        yield {**ok, "down": 1.5}, "down is 1.5"
        yield {**ok, "padding": [1, 2, 3]}, "padding is"
        yield {**ok, "padding": -2}, "the result would be empty"
        yield {**ok, "resample_filter": torch.ones(1, 2, 2), "up": 2}, "resample_filter has shape"
        yield {**ok, "input_gain": torch.ones(3)}, "input_gain has shape"
        yield {**ok, "input_gain": float("inf")}, "input_gain is inf"

    def test_opcheck(self, backend):
        pytest.skip("it has no operator of its own in the dispatcher; those it consists of are checked by their tests")


class TestModulatedConv2d(ModulatedTests):
    name = "modulated_conv2d"

    def samples(self):
        yield sample((2, 3, 4, 3), (4, 3, 3, 3), noise=(2, 1, 4, 3), padding=1)
        yield sample((2, 2, 2, 3), (2, 2, 3, 3), f=(4, 4), noise=(4, 6), up=2, padding=1, flip_weight=False)
        yield sample((1, 2, 5, 4), (2, 2, 3, 3), f=(4,), down=2, padding=1)
        yield sample((2, 2, 3, 3), (3, 2, 1, 1), demodulate=False, noise=())
        yield sample((3, 2, 2, 3), (3, 2, 3, 3), prenormalize=True, padding=2)
        yield sample((2, 2, 3, 3), (2, 2, 1, 1), prenormalize=True, demodulate=False, input_gain=(2,))
        yield sample((2, 2, 3, 3), (2, 2, 2, 3), input_gain=(2, 2), padding=[1, 0, 2, 1])
        yield sample((1, 2, 1, 1), (2, 2, 1, 1))
        yield sample((0, 2, 3, 3), (2, 2, 3, 3), noise=(3, 3), padding=1)

    def check_pruned(self, calls: Calls, wanted: str):
        ran = kinds(calls)
        backward = "modulate_act_backward"
        fused = any(name.startswith("scaled") for name in ran)  # Triton's, but for the gradient of styles
        expected = {
            "x": [backward, "scaled_conv2d"] if fused else [backward, "conv_transpose2d", backward],
            "weight": [backward, f"{'scaled_' if fused else ''}conv2d_weight_grad", "modulate_act"],
            "styles": [backward, "conv_transpose2d", backward],
            "noise": [backward],
        }
        assert sorted(ran) == sorted(expected[wanted]), f"for {wanted} ran {ran}"


class TestModulatedConv2dAct(ModulatedTests):
    name = "modulated_conv2d_act"

    def samples(self):
        yield sample((2, 3, 4, 3), (4, 3, 3, 3), noise=(2, 1, 4, 3), bias=True, padding=1, act="lrelu")
        yield sample((2, 2, 2, 3), (2, 2, 3, 3), f=(4, 4), bias=True, up=2, padding=1, act="swish", clamp=1.0)
        yield sample((2, 2, 3, 3), (3, 2, 1, 1), bias=True, demodulate=False, clamp=2.0)
        yield sample((0, 2, 3, 3), (2, 2, 3, 3), bias=True, padding=1, act="relu", gain=0.5)

    def bad(self):
        yield from super().bad()
        ok = {"x": torch.randn(2, 4, 6, 6), "weight": torch.randn(5, 4, 3, 3), "styles": torch.randn(2, 4)}
        yield {**ok, "bias": torch.ones(4)}, r"bias has shape \[4\], expected \[5\]"
        yield {**ok, "act": "gelu"}, "act is 'gelu'"
        yield {**ok, "clamp": -0.5}, "clamp is -0.5"
        yield {**ok, "gain": float("nan")}, "gain is nan"

    def check_pruned(self, calls: Calls, wanted: str):
        ran = kinds(calls)
        weights = {"conv2d_weight_grad", "scaled_conv2d_weight_grad"} & set(ran)
        images = {"conv_transpose2d", "scaled_conv2d"} & set(ran)
        assert bool(weights) == (wanted == "weight"), f"for {wanted} ran {ran}"
        assert bool(images) == (wanted in ("x", "styles")), f"for {wanted} ran {ran}"
        assert len(ran) <= 3


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_input_gain_may_be_a_number_or_a_scalar_tensor(backend):
    if reason := gankernels.why_not(backend, "cpu"):
        pytest.skip(reason)
    s = sample((2, 3, 3, 4), (2, 3, 3, 3), input_gain=(), prenormalize=True, padding=2)
    gain = s.tensors["input_gain"].requires_grad_()
    with gankernels.backend(backend):
        y = modulated_conv2d(**s.tensors, **s.kwargs)
        number = modulated_conv2d(**{**s.tensors, "input_gain": gain.item()}, **s.kwargs)
    expected = definition(**s.tensors, **s.kwargs)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(number, expected)
    torch.testing.assert_close(*(torch.autograd.grad(t.square().sum(), gain)[0] for t in (y, expected)))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_a_weight_for_each_sample(backend):
    if reason := gankernels.why_not(backend, "cpu"):
        pytest.skip(reason)
    torch.manual_seed(0)
    for s in TestModulatedConv2d().samples():
        if not len(s.tensors["x"]):
            continue
        expected = definition(**s.tensors, **s.fixed, **s.kwargs)
        with gankernels.backend(backend):
            torch.testing.assert_close(modulated_conv2d(**s.tensors, **s.fixed, **s.kwargs), expected)
    for s in TestModulatedConv2dAct().samples():
        if not len(s.tensors["x"]):
            continue
        t, kwargs = dict(s.tensors), dict(s.kwargs)
        bias = t.pop("bias")
        act = {k: kwargs.pop(k) for k in ("act", "clamp", "gain") if k in kwargs}
        expected = ops.bias_act(definition(**t, **s.fixed, **kwargs), bias, **act)
        with gankernels.backend(backend):
            found = modulated_conv2d_act(**s.tensors, **s.fixed, **s.kwargs)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("backend", "up"), [("reference", 1), ("cpu", 1), ("cpu", 2)])
def test_no_weight_of_a_sample_is_ever_allocated(backend, up):
    if reason := gankernels.why_not(backend, "cpu"):
        pytest.skip(reason)
    with gankernels.backend(backend):
        check_memory(up)


def check_memory(up):
    """No allocation of forward, backward or double backward is as large as the weights of all samples."""
    s = sample(
        (8, 32, 2, 2), (32, 32, 3, 3), f=(4, 4), noise=(2 * up, 2 * up), bias=True, padding=1, up=up, act="lrelu"
    )
    s = s.to("cpu", torch.float32)
    shared = s.tensors["weight"].nbytes
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        y = modulated_conv2d_act(**s.tensors, **s.fixed, **s.kwargs)
        first = torch.autograd.grad(y.sum(), list(s.tensors.values()), create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in first), list(s.tensors.values()), allow_unused=True)
    events = profile.profiler.kineto_results.events()
    sizes = [e.nbytes() for e in events if e.name() == "[memory]"]
    assert max(sizes) >= shared, "the profiler saw nothing"
    assert max(sizes) < 4 * shared, f"{max(sizes)} bytes at once, {max(sizes) / shared:.1f} times the weight"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_float16_does_not_overflow(backend):
    if reason := gankernels.why_not(backend, "cpu"):
        pytest.skip(reason)
    torch.manual_seed(0)
    x, w, s = 50 * torch.randn(2, 64, 4, 4), 300 * torch.randn(8, 64, 3, 3), 400 * torch.randn(2, 64)
    low = [t.half().requires_grad_() for t in (x, w, s)]
    with gankernels.backend(backend):
        y = modulated_conv2d(*low, padding=1)
        grads = torch.autograd.grad(y.sum(), low)
    exact = [t.detach().double().requires_grad_() for t in low]
    truth = definition(*exact, padding=1)
    true_grads = torch.autograd.grad(truth.sum(), exact)
    assert (y.double() - truth).abs().max() < 2e-3 * truth.abs().max()
    for ours, true in zip(grads, true_grads, strict=True):
        assert (ours.double() - true).abs().max() < 1e-2 * true.abs().max() + 1e-6


def test_float16_scaling_changes_no_digit_where_nothing_overflows():
    torch.manual_seed(0)
    x, w, s = torch.randn(2, 8, 5, 5), torch.randn(4, 8, 3, 3), torch.randn(2, 8)
    low = [t.half() for t in (x, w, s)]
    with gankernels.backend("reference"):
        scaled = modulated_conv2d(*low, padding=1)
        plain = modulated_conv2d(*[t.float() for t in low], padding=1).half()
    truth = definition(*[t.double() for t in low], padding=1)
    assert_as_true_as_reference(scaled, plain, truth)


@needs_native
def test_the_epilogue_runs_over_the_convolution_where_no_graph_is_kept():
    s = next(TestModulatedConv2dAct().samples()).to("cpu", torch.float32)
    with gankernels.backend("cpu"):
        with Calls() as calls:
            kept = modulated_conv2d_act(**s.tensors, **s.kwargs)
        assert "modulate_act_" not in kinds(calls)
        with Calls() as calls, torch.no_grad():
            over = modulated_conv2d_act(**s.tensors, **s.kwargs)
        assert "modulate_act_" in kinds(calls)
    assert torch.equal(kept, over)
