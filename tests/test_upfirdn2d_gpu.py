"""upfirdn2d's GPU kernels, executed without a GPU."""

import pytest
import test_upfirdn2d
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from gpu.cuda import Native
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import upfirdn2d


class TestUpfirdn2dOnGpu(OnGpu, test_upfirdn2d.TestUpfirdn2d):
    gpu_backends = ("triton", "cuda")

    def samples(self):
        """Every third call: each is several kernels to compile and to execute one instruction at a time."""
        return iter(list(super().samples())[::3])


F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
BLUR = dict(padding=[2, 1, 2, 1])
UP, UP12 = dict(up=2, padding=[2, 1, 2, 1], gain=4), dict(up=2, padding=[6, 5, 6, 5], gain=4)
DOWN, DOWN12 = dict(down=2, padding=[1, 1, 1, 1]), dict(down=2, padding=[5, 5, 5, 5], flip_filter=True)
PATHS = [  # shape, dtype, layout, elements before the first, taps, arguments, kernels of forward and of backward
    ((2, 3, 20, 24), F32, "NCHW", 0, (4, 4), BLUR, "rows<float, 1, 1, 4, false>", "rows<float, 1, 1, 4, false>"),
    ((1, 1, 9, 300), F32, "NCHW", 0, (4,), BLUR, "rows<float, 1, 1, 4, true>", "rows<float, 1, 1, 4, true>"),
    ((3, 20, 4, 4), F32, "NCHW", 0, (4, 4), UP, "rows<float, 2, 1, 4, false>", "rows<float, 1, 2, 4, false>"),
    ((1, 2, 18, 40), BF16, "NCHW", 0, (4,), UP, "rows<__nv_bfloat16, 2, 1, 4, true>",
     "rows<__nv_bfloat16, 1, 2, 4, true>"),
    ((3, 1, 21, 35), F16, "NCHW", 0, (12,), DOWN12, "rows<__half, 1, 2, 12, true>", "rows<__half, 2, 1, 12, true>"),
    ((1, 2, 17, 24), F16, "NCHW", 0, (7, 9), BLUR, "rows<__half, 1, 1, 12, false>", "rows<__half, 1, 1, 12, false>"),
    ((1, 2, 9, 12), F32, "NCHW", 1, (8,), dict(up=4, padding=[5, 6, 7, 3]), "rows<float, 4, 1, 24, true>",
     "rows<float, 1, 4, 24, true>"),
    ((2, 16, 12, 14), BF16, "NHWC", 0, (4, 4), DOWN, "pixels<__nv_bfloat16, 1, 2, 4, false>",
     "pixels<__nv_bfloat16, 2, 1, 4, false>"),
    ((1, 24, 17, 9), F32, "NHWC", 0, (12,), UP12, "pixels<float, 2, 1, 12, true>", "pixels<float, 1, 2, 12, true>"),
    ((1, 8, 9, 10), F16, "NHWC", 0, (3,), BLUR, "pixels<__half, 1, 1, 4, true>", "pixels<__half, 1, 1, 4, true>"),
    ((1, 4, 11, 13), F32, "NHWC", 0, (5, 6), DOWN, "pixels<float, 1, 2, 12, false>", "pixels<float, 2, 1, 12, false>"),
    ((1, 8, 15, 18), BF16, "NHWC", 0, (8,), dict(down=4, padding=[3, 4, 4, 2]), "pixels<__nv_bfloat16, 1, 4, 24, true>",
     "pixels<__nv_bfloat16, 4, 1, 24, true>"),
    ((1, 3, 9, 10), F32, "NHWC", 0, (4,), UP, "any<float, 1>", "any<float, 1>"),
    ((1, 8, 9, 7), BF16, "NHWC", 0, (3, 5), dict(up=3, down=[2, 1], padding=4), "any<__nv_bfloat16, 8>",
     "any<__nv_bfloat16, 8>"),
    ((1, 8, 9, 7), F32, "NHWC", 2, (4,), BLUR, "any<float, 1>", "pixels<float, 1, 1, 4, true>"),
    ((2, 4, 9, 10), F64, "NHWC", 0, (4, 4), UP, "any<double, 2>", "any<double, 2>"),
    ((2, 1, 20, 30), F64, "NCHW", 0, (30,), dict(up=[2, 1], padding=15), "any<double, 1>", "any<double, 1>"),
]  # fmt: skip
cuda_only = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))


def numbers(shape, dtype, layout="NCHW", offset=0):
    flat = torch.randn(offset + torch.Size(shape).numel(), dtype=dtype)[offset:]
    if layout == "NCHW":
        return flat.view(shape)
    n, c, h, w = shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


@cuda_only
@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "offset", "taps", "kwargs", "forward", "backward"), PATHS, ids=str
)
def test_cuda_paths(shape, dtype, layout, offset, taps, kwargs, forward, backward):
    torch.manual_seed(0)
    x, f = numbers(shape, dtype, layout, offset), torch.randn(taps, dtype=torch.float32)

    def run(dtype):
        a, b = x.to(dtype).detach(), f.to(torch.promote_types(dtype, torch.float32))
        y = upfirdn2d(a.requires_grad_(), b.requires_grad_(), **kwargs)
        g = torch.empty_like(y).copy_(torch.linspace(0, 9, y.numel(), dtype=torch.float64).sin().view(y.shape))
        return [y, *torch.autograd.grad(y, [a, b], g)]

    with gankernels.backend("reference"):
        theirs, truth = run(dtype), run(torch.float64)
    with emulated("cuda", 80) as log:
        ours = run(dtype)
    names = [launch.name.removeprefix("gk::upfirdn2d_") for launch in log.launches]
    assert names[:2] == [forward, backward], names
    assert names[2].startswith("filter_grad")
    assert names[3].startswith("filter_sums")
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@cuda_only
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("taps", "kwargs"), [((4, 4), BLUR), ((4,), UP), ((12,), DOWN12)], ids=str)
def test_cuda_reads_x_once_and_writes_y_once(layout, taps, kwargs):
    x, f = numbers((1, 32, 16, 64), BF16, layout), torch.randn(taps)
    with emulated("cuda", 90) as log:
        y = upfirdn2d(x, f, **kwargs)
    (launch,) = log.launches
    assert launch.run.touched.unique_bytes() == (x.nbytes + f.nbytes, y.nbytes)
    counters = launch.counters
    assert counters["load_sectors"] <= 1.01 * counters["load_ideal_sectors"]
    assert counters["store_sectors"] == counters["store_ideal_sectors"]
    assert counters["shared_wavefronts"] <= 1.1 * counters["shared_ideal_wavefronts"]


@cuda_only
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "kwargs", [dict(padding=1), dict(up=2, padding=[1, 2, 1, 2]), dict(down=2, padding=3)], ids=str
)
@pytest.mark.parametrize("taps", [(3,), (3, 3)], ids=str)
def test_cuda_infinity_reaches_no_more_outputs_than_the_filter(taps, kwargs, layout):
    """The kernel is for 4 taps: a tap of zero would make a number of NaN from an infinity beyond the third."""
    x = numbers((1, 4, 9, 12), F32, layout).clone(memory_format=torch.preserve_format)
    x[:, :, 4, 5] = float("inf")
    with gankernels.backend("reference"):
        expected = upfirdn2d(x.double(), torch.ones(taps, dtype=F64), **kwargs)
    with emulated("cuda", 80):
        y = upfirdn2d(x, torch.ones(taps), **kwargs)
    assert torch.equal(y.isfinite(), (expected.isfinite()))
    assert torch.equal(y.isnan(), expected.isnan())


@cuda_only
def test_cuda_entry_refuses_by_name():
    native = Native("upfirdn2d", 80)
    x, f, y = torch.randn(1, 1, 8, 8), torch.ones(1, 1), torch.empty(1, 1, 8, 8)
    numbers = dict(planes=1, channels=1, height=8, width=8, out_height=8, out_width=8, taps_y=1, taps_x=1, up_x=1,
                   up_y=1, down_x=1, down_y=1, pad_x=0, pad_y=0, flip=0, gain=1.0, dtype=0, filter_dtype=0)  # fmt: skip
    native.gk_upfirdn2d_forward(x, f, None, y, **numbers)
    assert torch.equal(x, y)
    for change, message in (
        ({"planes": 1 << 40}, "expected fewer than 2"),
        ({"dtype": 7}, "dtype: got code 7"),
        ({"filter_dtype": 2}, "filter_dtype: got code 2"),
        ({"up_x": 0}, "got an axis of 8 samples"),
    ):
        with pytest.raises(RuntimeError, match=message):
            native.gk_upfirdn2d_forward(x, f, None, y, **{**numbers, **change})
