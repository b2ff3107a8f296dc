"""modulated_conv2d's GPU kernels, executed without a GPU; on cuda its convolution is PyTorch's, on the CPU."""

import pytest
import test_modulated_conv2d
import torch
from gpu.battery import OnGpuInPart, emulated
from op_tests import Calls, assert_as_true_as_reference
from test_modulated_conv2d import check_memory, sample

import gankernels
from gankernels import ops
from gankernels.triton import conv2d as kernels

LAST, PLAIN = torch.channels_last, torch.contiguous_format


class TestModulatedConv2dOnGpu(OnGpuInPart, test_modulated_conv2d.TestModulatedConv2d):
    pass


class TestModulatedConv2dActOnGpu(OnGpuInPart, test_modulated_conv2d.TestModulatedConv2dAct):
    pass


def results(s, order=1):
    """The value and the gradients; of order 2, the gradients of the squares of these."""
    s = s.fresh()
    y = ops.modulated_conv2d_act(**s.tensors, **s.fixed, **s.kwargs)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype)
    first = torch.autograd.grad(y, list(s.tensors.values()), g, create_graph=order > 1)
    if order == 1:
        return [y, *first]
    total = sum(t.square().sum() for t in first)
    return [y, *first, *torch.autograd.grad(total, list(s.tensors.values()), allow_unused=True)]


def compare(s, dtype, layout, device, order=1):
    torch.manual_seed(0)
    for name in ("x", "weight"):
        s.tensors[name] = s.tensors[name].contiguous(memory_format=layout)
    low = s.to("cpu", dtype)
    with gankernels.backend("reference"):
        theirs, truth = results(low, order), results(low.to("cpu", torch.float64), order)
    with device as log:
        ours = results(low, order)
    names = ["value", *s.tensors, *(f"second {name}" for name in s.tensors)]
    for name, a, r, t in zip(names, ours, theirs, truth, strict=False):
        if t is not None:
            assert_as_true_as_reference(a, r, t, f"{name} {dtype} {layout}")
    assert ours[0].is_contiguous(memory_format=layout)
    return log


LRELU = {"bias": True, "act": "lrelu", "clamp": 256.0, "padding": 1}
RGB = {"bias": True, "demodulate": False, "clamp": 1.0}
# x, weight, noise; arguments; dtype, layout, and whether all tiles run; those are of one image each, or of several.
LAYERS = {
    "alone": ((2, 40, 18, 16), (24, 40, 3, 3), (18, 16), LRELU, torch.bfloat16, LAST, "all"),
    "alone, NCHW": ((2, 20, 16, 16), (24, 20, 3, 3), (2, 1, 16, 16), LRELU, torch.float16, PLAIN, "one"),
    "together": ((3, 40, 4, 4), (24, 40, 3, 3), (4, 4), LRELU, torch.float16, LAST, "one"),
    "up": ((2, 24, 16, 16), (16, 24, 3, 3), (32, 32), {**LRELU, "up": 2, "f": (4,)}, torch.bfloat16, LAST, "one"),
    "down": ((1, 16, 9, 8), (16, 16, 3, 3), None, {**LRELU, "down": 2, "f": (4,)}, torch.float16, LAST, "one"),
    "to RGB": ((2, 32, 16, 16), (3, 32, 1, 1), None, RGB, torch.float16, LAST, "one"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    *shapes, kwargs, dtype, layout, configs = LAYERS[name]
    compare(sample(*shapes, **kwargs), dtype, layout, emulated("triton", 80, configs))


@pytest.mark.parametrize("layout", [LAST, PLAIN], ids=["NHWC", "NCHW"])
def test_second_order_of_tiles_of_one_image(layout, monkeypatch):
    monkeypatch.setattr(kernels, "_ALONE", 8)
    s = sample((2, 4, 4, 4), (3, 4, 3, 3), (4, 4), bias=True, padding=1, act="swish")
    log = compare(s, torch.float64, layout, emulated("triton", 80), order=2)
    assert any(launch.arguments.get("ALONE") for launch in log.launches)


@pytest.mark.parametrize("up", [1, 2])
def test_launches(up):
    """The powers of the weight and the layer; where it upsamples, the filter and the epilogue as well."""
    expected = ["_modulate", "_convolve"] if up == 1 else ["_modulate", "_convolve", None, "_modulate"]
    s = sample((2, 8, 4, 4), (8, 8, 3, 3), (4 * up, 4 * up), (4, 4), up=up, **LRELU).to("cpu", torch.float16)
    calls = Calls()
    with emulated("triton", 80) as log, torch.no_grad(), calls:
        ops.modulated_conv2d_act(**s.tensors, **s.fixed, **s.kwargs)
    names = [launch.name for launch in log.launches]
    assert len(names) == len(expected)
    assert all(e in (None, name) for name, e in zip(names, expected, strict=True)), names
    assert all(launch.arguments["z_ptr"] is None for launch in log.launches if launch.name == "_convolve")
    assert ("gankernels::modulate_act_" in calls.names()) == (up == 2), "the epilogue is written over its input"


@pytest.mark.parametrize(("stride", "size", "taps"), [(1, 16, 9), (2, 32, 16)])
def test_no_more_products_than_pairs_of_sample_and_tap(stride, size, taps):
    """Tensor cores do the work of each pair once: in an upsampling layer those of its phases, of no inserted zero."""
    kernel = 3 if stride == 1 else 4
    x = torch.randn(2, 32, 16, 16).half().contiguous(memory_format=LAST)
    w = torch.randn(32, 32, kernel, kernel).half().contiguous(memory_format=LAST)
    s = torch.rand(2, 32) + 0.5
    with emulated("triton", 80) as log:
        op = torch.ops.gankernels.scaled_conv2d
        y = op(x, w, s, False, stride > 1, [stride] * 2, [1, 1], [size, size])
    f = torch.nn.functional.conv2d if stride == 1 else torch.nn.functional.conv_transpose2d
    truth = f((x * s[:, :, None, None].half()).double(), w.double(), None, stride, 1)
    torch.testing.assert_close(y.double(), truth, rtol=1e-2, atol=0.2)
    (launch,) = log.launches
    assert launch.arguments["ALONE"]
    assert launch.counters["mma_flops"] == 2 * 2 * 16 * 16 * 32 * 32 * taps


@pytest.mark.parametrize("up", [1, 2])
def test_no_weight_of_a_sample_is_ever_allocated(up):
    with emulated("triton", 80):
        check_memory(up)


def test_before_tensor_cores():
    s = sample((1, 20, 6, 5), (8, 20, 3, 3), (6, 5), **LRELU)
    log = compare(s, torch.float16, LAST, emulated("triton", 75))
    assert not sum(launch.counters["mma_flops"] for launch in log.launches)


def test_opcheck():
    g = torch.Generator().manual_seed(0)
    x, w, s, t, noise, bias = (
        torch.randn(shape, generator=g, requires_grad=True)
        for shape in ((2, 3, 4, 4), (2, 3, 3, 3), (2, 3), (2, 2), (1, 1, 4, 4), (2,))
    )
    geometry = [1, 1], [1, 1]
    with emulated("triton", 80):
        for keep in (True, False):
            act = ("lrelu", 0.2, 1.0, -1.0) if keep else ("linear", 0.0, 1.0, -1.0)
            args = (x, w, s, t if keep else None, noise, bias, *geometry, [4, 4], *act, keep)
            torch.library.opcheck(torch.ops.gankernels.modulated_conv2d.default, args)
        torch.library.opcheck(torch.ops.gankernels.scaled_conv2d.default, (x, w, s, False, False, *geometry, [4, 4]))
        gradient = torch.randn(2, 2, 4, 4, requires_grad=True)
        args = (gradient, x, s, True, *geometry, [3, 3])
        torch.library.opcheck(torch.ops.gankernels.scaled_conv2d_weight_grad.default, args)
