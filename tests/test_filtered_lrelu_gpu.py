"""filtered_lrelu's GPU kernels, executed without a GPU."""

import pytest
import test_filtered_lrelu
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from gpu.cuda import Native
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import filtered_lrelu


class TestFilteredLreluOnGpu(OnGpuInPart, test_filtered_lrelu.TestFilteredLrelu):
    gpu_backends = ("triton", "cuda")

    def select(self, test, cc):
        super().select(test, cc)
        if cc == 90 and "float32" not in test:
            pytest.skip("sm_90 in float32 alone: each call is some seconds to compile")


F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
NUMBERS = dict(gain=1.3, slope=0.3, clamp=0.8)
PATHS = [  # shape, dtype, layout, taps, arguments, kernels of forward and of backward
    ((1, 3, 13, 21), F32, "NCHW", (12,), (12,), dict(up=2, down=2, padding=[11, 10, 10, 11]),
     "tile<float, 2, 2, 0>", "tile<float, 2, 2, 0>"),
    ((2, 1, 30, 70), BF16, "NCHW", (12,), (12,), dict(up=2, down=2, padding=[11, 12, 11, 10], flip_filter=True),
     "tile<__nv_bfloat16, 2, 2, 1>", "tile<__nv_bfloat16, 2, 2, 1>"),
    ((1, 2, 9, 10), F16, "NCHW", (24,), (12,), dict(up=4, down=2, padding=[17, 18, 15, 20]),
     "tile<__half, 4, 2, 3>", "tile<__half, 2, 4, 1>"),
    ((1, 12, 7, 6), BF16, "NHWC", (12,), (12,), dict(up=2, down=2, padding=[11, 10, 10, 11]),
     "tile<__nv_bfloat16, 2, 2, 0>", "tile<__nv_bfloat16, 2, 2, 0>"),
    ((1, 2, 12, 14), F32, "NHWC", (12,), (24,), dict(up=2, down=4, padding=[17, 16, 17, 17]),
     "tile<float, 2, 4, 1>", "tile<float, 4, 2, 1>"),
    ((1, 2, 11, 9), F32, "NCHW", (24,), (24,), dict(up=4, down=4, padding=[23, 22, 21, 24]),
     "tile<float, 4, 4, 1>", "tile<float, 4, 4, 1>"),
    ((1, 3, 9, 11), F16, "NCHW", (12,), (12, 12), dict(up=2, down=2, padding=11), "any<__half>", "any<__half>"),
    ((1, 5, 9, 6), BF16, "NHWC", (6, 5), (7,), dict(up=[3, 2], down=[2, 1], padding=6), "any<__nv_bfloat16>",
     "any<__nv_bfloat16>"),
    ((1, 2, 5, 6), F64, "NHWC", (12,), (12,), dict(up=2, down=2, padding=11), "any<double>", "any<double>"),
    ((2, 3, 3, 2), F16, "NHWC", (3,), (2, 3), dict(up=[1100, 2], down=[1100, 1], padding=[2, 1, 3, 2]),
     "direct<__half>", "direct<__half>"),
    ((1, 2, 2, 2), F32, "NCHW", (2, 3), (2,), dict(up=[1, 1100], down=[2, 1100], padding=[3, 1, 2, 4]),
     "direct<float>", "direct<float>"),
]  # fmt: skip
cuda_only = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))


def draw(shape, dtype=F32, layout="NCHW", seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "NHWC" else x


def results(x, fu, fd, b, kwargs, dtype):
    """The value and the gradients, in another dtype."""
    x, b = (t.detach().to(dtype).requires_grad_() for t in (x, b))
    y = filtered_lrelu(x, fu, fd, b, **kwargs)
    g = torch.empty_like(y).copy_(torch.linspace(0, 9, y.numel(), dtype=F64).sin().view(y.shape))
    return [y, *torch.autograd.grad(y, [x, b], g)]


@cuda_only
@pytest.mark.parametrize(("shape", "dtype", "layout", "up", "down", "kwargs", "forward", "backward"), PATHS, ids=str)
def test_cuda_paths(shape, dtype, layout, up, down, kwargs, forward, backward):
    x, b, kwargs = draw(shape, dtype, layout), draw(shape[1:2], dtype, seed=1), {**kwargs, **NUMBERS}
    fu, fd = (draw(taps, seed=2 + i) / len(taps) for i, taps in enumerate((up, down)))
    with gankernels.backend("reference"):
        theirs, truth = (results(x, fu, fd, b, kwargs, t) for t in (dtype, F64))
    with emulated("cuda", 80) as log:
        ours = results(x, fu, fd, b, kwargs, dtype)
    names = [launch.name.removeprefix("gk::filtered_lrelu_") for launch in log.launches]
    assert names == [forward, backward]
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_one_launch_each_and_only_what_is_asked_for(backend, layout):
    """Without filters, slope and gain 1, as the last layer of StyleGAN3 has it: bias and clamp."""
    if backend == "cuda" and (reason := nvrtc.missing()):
        pytest.skip(reason)
    x, b = draw((2, 3, 5, 6), F32, layout).requires_grad_(), draw((3,), seed=1).requires_grad_()
    with emulated(backend, 80) as log:
        y = filtered_lrelu(x, bias=b, gain=1, slope=1, clamp=1.5)
        assert len(log.launches) == 1
        torch.testing.assert_close(y, (x + b[:, None, None]).clamp(-1.5, 1.5))
        gy = torch.ones_like(y).requires_grad_()
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        torch.autograd.grad(gx.sum(), gy)
        assert len(log.launches) == 3
        (gb,) = torch.autograd.grad(y.sum(), b)
        assert len(log.launches) == 4
    inside = (x + b[:, None, None]).abs() <= 1.5
    assert torch.equal(gx, inside.float())
    torch.testing.assert_close(gb, inside.float().sum((0, 2, 3)))


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_infinity_reaches_no_more_outputs_than_the_filters(backend):
    if backend == "cuda" and (reason := nvrtc.missing()):
        pytest.skip(reason)
    x, f, kwargs = draw((1, 1, 11, 13)), torch.ones(12), dict(up=2, down=2, padding=11)
    x[0, 0, 5, 6] = float("nan")
    with gankernels.backend("reference"):
        expected = filtered_lrelu(x.double(), f, f, **kwargs)
    with emulated(backend, 80):
        y = filtered_lrelu(x, f, f, **kwargs)
    assert torch.equal(y.isnan(), expected.isnan())


@cuda_only
def test_cuda_entry_refuses_by_name():
    native = Native("filtered_lrelu", 80)
    x, f, y = draw((1, 1, 4, 4)), torch.ones(1, 1), torch.empty(1, 1, 4, 4)
    axis = (4, 4, 4, 1, 1, 1, 1, 0, 0)
    call = dict(x=x, bias=None, fu=f, fuy=None, fd=f, fdy=None, y=y, bits=None, sums=None, n=1, features=1, h=axis,
                v=axis, channels_last=0, flip=0, mode=0, up_gain=1.0, gain=1.0, slope=1.0, bound=2.0, dtype=0,
                up_dtype=0, down_dtype=0)  # fmt: skip
    native.gk_filtered_lrelu(**call)
    assert torch.equal(y, x.clamp(-2, 2))
    for change, message in (
        ({"dtype": 7}, "dtype: got code 7"),
        ({"up_dtype": 2}, "a filter's dtype: got code 2"),
        ({"h": (0, *axis[1:])}, "an axis of 0 samples"),
        ({"v": (1 << 24, *axis[1:])}, "an axis of 16777216 samples"),
        ({"mode": 1}, "mode: got 1"),
        ({"n": 1 << 40}, "expected fewer than 2"),
        ({"mode": 1, "bits": torch.empty(4, 1, dtype=torch.uint8), "h": (*axis[:8], 1)}, "padding of the upsampled"),
    ):
        with pytest.raises(RuntimeError, match=message):
            native.gk_filtered_lrelu(**{**call, **change})
