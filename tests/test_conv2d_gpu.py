"""The convolutions' GPU kernels, executed without a GPU; and the cuda backend, PyTorch's kernels, on the CPU."""

from contextlib import contextmanager

import pytest
import test_conv2d
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from gpu.fixtures import accepting, redirected
from op_tests import Calls, assert_as_true_as_reference

import gankernels
from gankernels import _backend, _doctor
from gankernels.ops import conv2d, conv_transpose2d
from gankernels.triton import conv2d_tiles

LAST, PLAIN = torch.channels_last, torch.contiguous_format


class ConvolutionOnGpu(OnGpuInPart):
    """cuda is not emulated: it is PyTorch's operators, on the CPU."""

    layout_of = ("x", "weight")

    @pytest.fixture(params=[("triton", 80), ("triton", 90), ("cuda", 80)], ids=lambda p: f"{p[0]}-sm_{p[1]}")
    def backend(self, request):
        name, cc = request.param
        if name == "cuda" and (reason := nvrtc.missing() or _backend.native_error):
            pytest.skip(reason)
        self.select(request.node.name, cc)
        if name == "cuda":
            self.most = 9
        with emulated(name, cc) as self.log:
            yield name


class TestConv2dOnGpu(ConvolutionOnGpu, test_conv2d.TestConv2d):
    pass


class TestConvTranspose2dOnGpu(ConvolutionOnGpu, test_conv2d.TestConvTranspose2d):
    pass


def results(f, x, w, b, dtype, order=1, **kwargs):
    """The value, and the gradients, of operands in another dtype."""
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, w, b)]
    y = f(*leaves, **kwargs)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype).to(dtype)
    return [y, *torch.autograd.grad(y, leaves, g)]


def compare(f, x_shape, w_shape, dtype, layout, device, **kwargs):
    x, w = (torch.randn(s).to(dtype).contiguous(memory_format=layout) for s in (x_shape, w_shape))
    b = torch.randn(w_shape[0] if f is conv2d else w_shape[1] * kwargs.get("groups", 1)).to(dtype)
    with gankernels.backend("reference"):
        theirs, truth = results(f, x, w, b, dtype, **kwargs), results(f, x, w, b, torch.float64, **kwargs)
    with device as log:
        ours = results(f, x, w, b, dtype, **kwargs)
    for name, a, r, t in zip(("value", "x", "weight", "bias"), ours, theirs, truth, strict=True):
        assert a.is_contiguous(memory_format=layout) or name == "bias"
        assert_as_true_as_reference(a, r, t, f"{name} of {f.__name__} {x_shape} {w_shape} {dtype} {layout}")
    return log


# More channels than a block has, whole ones and parts; groups; uneven phases; several splits; "all" runs every tile.
LAYERS = [
    (conv2d, (2, 40, 9, 8), (72, 40, 3, 3), torch.bfloat16, LAST, "all", {"padding": 1}),
    (conv2d, (1, 20, 8, 8), (24, 20, 3, 3), torch.float32, PLAIN, "one", {"padding": 1, "stride": 2}),
    (
        conv2d,
        (2, 48, 6, 8),
        (32, 24, 2, 3),
        torch.float16,
        LAST,
        "one",
        {"groups": 2, "dilation": 2, "padding": (1, 2)},
    ),
    (conv2d, (1, 32, 24, 32), (48, 32, 1, 1), torch.float16, PLAIN, "one", {}),
    (conv_transpose2d, (2, 24, 5, 5), (24, 40, 4, 4), torch.float16, LAST, "one", {"stride": 2, "padding": 1}),
    (conv_transpose2d, (1, 36, 7, 6), (36, 24, 3, 3), torch.bfloat16, PLAIN, "one", {"stride": 2, "output_padding": 1}),
    (conv_transpose2d, (1, 24, 20, 21), (24, 17, 3, 3), torch.float32, LAST, "one", {"padding": 1}),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda c: f"{c[0].__name__}-{c[1]}-{c[2]}-{str(c[3])[6:]}")
def test_wide_layers(layer):
    *shape, configs, kwargs = layer
    compare(*shape, emulated("triton", 80, configs), **kwargs)


def test_16_bit_before_tensor_cores():
    log = compare(conv2d, (1, 20, 6, 5), (8, 20, 3, 3), torch.float16, LAST, emulated("triton", 75), padding=1)
    assert not sum(launch.counters["mma_flops"] for launch in log.launches)


@pytest.mark.parametrize("layout", [LAST, PLAIN], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("f", [conv2d, conv_transpose2d], ids=lambda f: f.__name__)
def test_16_bit_products_are_summed_in_float32(f, layout):
    """Thousands come and go on the way to a sum of a few: float16 would lose what remains."""
    large, small = torch.randn(2, 32, 6, 6), torch.randn(2, 32, 6, 6)
    w_large, w_small = torch.randn(32, 24, 3, 3), torch.randn(32, 24, 3, 3)
    x = torch.cat([50 * large, small, -50 * large], 1).half().contiguous(memory_format=layout)
    w = torch.cat([50 * w_large, w_small, 50 * w_large], 0).half()
    if f is conv2d:
        w = w.transpose(0, 1)
    w = w.contiguous(memory_format=layout)
    g = torch.randn(3, 24, 6, 6)
    g = torch.stack([50 * g[0], g[1], 50 * g[0]]).half().contiguous(memory_format=layout)
    images = torch.stack([x[0], x[1] / 32, -x[0]]).contiguous(memory_format=layout)

    def results(to):
        leaf = w.to(to, copy=True).requires_grad_()
        of_weight = torch.autograd.grad(f(images.to(to), leaf, padding=1), leaf, g.to(to))[0]
        return f(x.to(to), leaf.detach(), padding=1), of_weight

    with gankernels.backend("reference"):
        theirs, truth = results(torch.float16), results(torch.float64)
    with emulated("triton", 80):
        ours = results(torch.float16)
    for name, a, r, t in zip(("value", "weight"), ours, theirs, truth, strict=True):
        assert t.abs().max() < 2000
        assert_as_true_as_reference(a, r, t, f"{name} of {f.__name__}")


@contextmanager
def precision(convolutions, matrices):
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch, value in zip(switches, (convolutions, matrices), strict=True):
            switch.fp32_precision = value
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def test_tf32_only_where_both_switches_allow_it():
    x, w, b = torch.randn(1, 16, 6, 6), torch.randn(16, 16, 3, 3), torch.zeros(16)
    truth = results(conv2d, x, w, b, torch.float64, padding=1)
    errors = {}
    for switches in (("tf32", "ieee"), ("ieee", "tf32"), ("tf32", "tf32")):
        with precision(*switches), emulated("triton", 80) as log:
            ours = results(conv2d, x, w, b, torch.float32, padding=1)
        tensor_cores = [launch.counters["mma_flops"] > 0 for launch in log.launches]
        assert tensor_cores == [switches == ("tf32", "tf32")] * 3
        errors[switches] = max(((a - t).abs().max() / t.abs().max()).item() for a, t in zip(ours, truth, strict=True))
    assert errors["tf32", "ieee"] < 1e-6
    assert errors["ieee", "tf32"] < 1e-6
    assert 1e-6 < errors["tf32", "tf32"] < 2**-9  # both operands lose up to 2**-10


def test_64_bit_offsets(monkeypatch):
    monkeypatch.setattr(conv2d_tiles, "needs_64_bit", lambda *tensors: True)
    device = emulated("triton", 80)
    log = compare(conv_transpose2d, (2, 40, 6, 5), (40, 4, 3, 3), torch.float16, LAST, device, stride=2, groups=2)
    assert all(launch.arguments["BIG"] for launch in log.launches)


def test_64_bit_offsets_are_chosen_by_reach():
    small = torch.empty(2, 1, 1, 2**20, device="meta")
    far = torch.empty_strided((2, 1, 1, 2), (2**31, 1, 1, 1), device="meta")
    many = torch.empty(1, device="meta").expand(2**11, 1, 2**10, 2**10)
    assert not conv2d_tiles.needs_64_bit(small, small)
    assert conv2d_tiles.needs_64_bit(small, far)
    assert conv2d_tiles.needs_64_bit(many, small)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "layout"),
    [(4, 2, 1, LAST), (4, 2, 1, PLAIN), (3, 2, 1, LAST), (3, 2, 1, PLAIN), (2, 3, 0, LAST)],
    ids=str,
)
def test_no_inserted_zero_is_multiplied(kernel, stride, padding, layout):
    """Tensor cores do the work of every pair of a sample and a tap once: pixels of a phase, taps of a phase."""
    samples, channels = 8, 32
    x = torch.randn(1, channels, samples, samples, dtype=torch.float16).contiguous(memory_format=layout)
    w = torch.randn(channels, channels, kernel, kernel, dtype=torch.float16).contiguous(memory_format=layout)
    size = samples * stride
    extra = size - ((samples - 1) * stride - 2 * padding + kernel)
    with emulated("triton", 80) as log:
        y = torch.ops.gankernels.conv_transpose2d(x, w, None, [stride] * 2, [padding] * 2, [1, 1], 1, [size, size])
    assert extra >= 0
    truth = torch.nn.functional.conv_transpose2d(x.double(), w.double(), None, stride, padding)
    torch.testing.assert_close(y[..., : truth.shape[2], : truth.shape[3]].double(), truth, rtol=1e-2, atol=5e-2)
    (launch,) = log.launches
    taps = kernel * kernel  # of all phases together
    assert launch.counters["mma_flops"] == 2 * samples**2 * channels**2 * taps


@pytest.mark.parametrize("f", [conv2d, conv_transpose2d], ids=lambda f: f.__name__)
def test_one_launch_each_and_no_copy(f):
    """Strided operands are read where they lie, and only what is asked for is computed."""
    x = torch.randn(2, 4, 5, 12).half()[..., ::2].transpose(2, 3).requires_grad_()
    w = torch.randn(4, 4, 3, 3).half().transpose(2, 3).requires_grad_()
    b = torch.randn(4).half().requires_grad_()
    calls = Calls()
    with emulated("triton", 80) as log, calls:
        y = f(x, w, b, stride=2, padding=1)
        assert [launch.name for launch in log.launches] == ["_convolve"]
        for wanted, kernels in (([x], ["_convolve"]), ([w], ["_correlate"]), ([b], [])):
            log.launches.clear()
            torch.autograd.grad(y.sum(), wanted, retain_graph=True)  # an expanded cotangent
            assert [launch.name for launch in log.launches] == kernels
        (gx,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
        log.launches.clear()
        torch.autograd.grad(gx.square().sum(), [w])  # R1's: nothing of x's own second derivative
        assert [launch.name for launch in log.launches] == ["_correlate"]
    copies = {"aten::clone", "aten::contiguous", "aten::copy_", "aten::_to_copy"}
    assert not calls.names() & copies, calls.names()


def test_third_order():
    """Derivatives of second derivatives, against the reference's."""

    def third():
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(1, 2, 3, 3, dtype=torch.float64, generator=draw).requires_grad_()
        w = torch.randn(2, 2, 3, 2, dtype=torch.float64, generator=draw).requires_grad_()
        y = conv_transpose2d(x, w, stride=2, padding=1)
        first = torch.autograd.grad(y.pow(3).sum(), [x, w], create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), [x, w], create_graph=True)
        return torch.autograd.grad(sum(g.sin().sum() for g in second), [x, w])

    with gankernels.backend("reference"):
        expected = third()
    with emulated("triton", 80):
        torch.testing.assert_close(third(), expected)


needs_native = pytest.mark.skipif(_backend.native_error is not None, reason=str(_backend.native_error))


@needs_native
@pytest.mark.parametrize(("switches", "runs"), [
    (("tf32", "ieee"), "aten::bmm"), (("ieee", "ieee"), "aten::convolution_backward"),
    (("tf32", "tf32"), "aten::convolution_backward"),
])  # fmt: skip
def test_cuda_obeys_both_switches(switches, runs):
    @contextmanager
    def on_cpu():
        with redirected(), accepting("cuda"), gankernels.backend("cuda"):
            yield

    with precision(*switches), torch.profiler.profile() as profile:
        compare(conv2d, (2, 6, 7, 5), (4, 3, 3, 2), torch.float32, LAST, on_cpu(), groups=2, stride=2, padding=1)
    names = {event.key for event in profile.key_averages()}
    assert ("aten::bmm" in names) == (runs == "aten::bmm")
    assert runs in names


@needs_native
def test_cuda_needs_no_cuda_build():
    for op in ("conv2d", "conv_transpose2d", "conv2d_weight_grad"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gankernels_native::{op}", "CUDA")
    assert _backend.why_not("cuda", "cuda", "conv2d") is None
    assert "these are on cpu" in _backend.why_not("cuda", "cpu", "conv2d")


def test_doctor_says_that_cudnn_is_unproven(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "conv2d, conv_transpose2d on cuda are PyTorch's kernels (cuDNN): none of those has run" in _doctor.report()
