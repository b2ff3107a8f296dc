"""instance_norm_act's GPU kernels, executed without a GPU."""

import pytest
import test_instance_norm_act
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from test_instance_norm_act import sample

from gankernels.ops import instance_norm_act

needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
BACKENDS = ["triton", pytest.param("cuda", marks=needs_nvrtc)]


class TestInstanceNormActOnGpu(OnGpuInPart, test_instance_norm_act.TestInstanceNormAct):
    test_sizes_that_cross_tiles_and_blocks = None

    def samples(self):
        yield sample((2, 3, 4, 5), act="lrelu")
        yield sample((2, 8, 4, 3), act="swish", last=True, gain=1.7)
        yield sample((0, 3, 4, 4), act="tanh")


def of(shape, dtype, last):
    s = sample(shape, act="swish", last=last)
    return s.to("cpu", dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "dtype", "last"),
    [
        ((1, 2, 130, 130), torch.bfloat16, False),  # several splits
        ((2, 3, 24, 20), torch.bfloat16, False),
        ((2, 40, 20, 33), torch.bfloat16, True),
        ((3, 37, 3, 3), torch.float32, True),
    ],
)
def test_paths(backend, shape, dtype, last):
    """Packs and single elements, splits, strips of channels; values and both orders of derivatives."""
    with emulated(backend, 80):
        test_instance_norm_act.TestInstanceNormAct().check_derivatives(backend, [of(shape, dtype, last)], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_launches(backend, last):
    """One each where a channel is short, but two for the second derivative in Triton."""
    x = torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    w, x = torch.rand(8, requires_grad=True), x.requires_grad_()
    with emulated(backend, 80) as log:
        y = instance_norm_act(x, w, act="lrelu")
        assert len(log.launches) == 1
        (g,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        assert len(log.launches) == 2
        torch.autograd.grad(g.square().sum(), [x, w])
        assert len(log.launches) == (3 if backend == "cuda" else 4)
