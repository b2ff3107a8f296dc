"""conditional_batch_norm's GPU kernels, executed without a GPU."""

import pytest
import test_conditional_batch_norm
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from test_conditional_batch_norm import sample

from gankernels.ops import conditional_batch_norm

needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
BACKENDS = ["triton", pytest.param("cuda", marks=needs_nvrtc)]


class TestConditionalBatchNormOnGpu(OnGpuInPart, test_conditional_batch_norm.TestConditionalBatchNorm):
    test_sizes_that_cross_tiles_and_blocks = None

    def samples(self):
        yield sample((2, 3, 4, 5), act="relu")
        yield sample((2, 8, 4, 3), act="swish", training=False, gain=1.7, last=True)
        yield sample((0, 3, 4, 4), act="tanh")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((3, 2, 64, 40), torch.bfloat16, {}),
        ((3, 40, 20, 8), torch.bfloat16, {"last": True}),
        ((9, 37), torch.float32, {}),
        ((3, 5, 3, 5), torch.float16, {"training": False}),
    ],
)
def test_paths(backend, shape, dtype, options):
    """Packs and single elements, splits, strips of channels; values and both orders of derivatives."""
    with emulated(backend, 80):
        battery = test_conditional_batch_norm.TestConditionalBatchNorm()
        battery.check_derivatives(backend, [sample(shape, act="swish", **options)], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_launches(backend):
    """Two forward; a derivative has one small launch more, which adds up the samples' sums."""
    x, scale = torch.randn(4, 8, 8, 8, requires_grad=True), torch.rand(4, 8, requires_grad=True)
    with emulated(backend, 80) as log:
        y = conditional_batch_norm(x, scale, scale, None, None, training=True, act="relu")
        assert len(log.launches) == 2
        (g,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        assert len(log.launches) == 5
        torch.autograd.grad(g.square().sum(), [x, scale])
        assert len(log.launches) == 8
