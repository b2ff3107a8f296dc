"""spade_norm's GPU kernels, executed without a GPU."""

import pytest
import test_spade_norm
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from test_spade_norm import sample

from gankernels.ops import spade_norm

needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
BACKENDS = ["triton", pytest.param("cuda", marks=needs_nvrtc)]


class TestSpadeNormOnGpu(OnGpuInPart, test_spade_norm.TestSpadeNorm):
    layout_of = ("x", "scale")  # shift is read as scale is
    test_sizes_that_cross_tiles_and_blocks = None

    def samples(self):
        yield sample((2, 3, 4, 5), act="lrelu")
        yield sample((2, 8, 4, 3), act="swish", training=False, gain=1.7, last=True)
        yield sample((0, 3, 4, 4), act="tanh")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((2, 2, 64, 40), torch.bfloat16, {}),
        ((2, 40, 20, 8), torch.bfloat16, {"last": True}),
        ((3, 37, 3, 1), torch.float32, {"last": True}),
        ((3, 5, 3, 5), torch.float16, {"training": False}),
    ],
)
def test_paths(backend, shape, dtype, options):
    """Packs and single elements, splits, strips of channels; values and both orders of derivatives."""
    with emulated(backend, 80):
        test_spade_norm.TestSpadeNorm().check_derivatives(backend, [sample(shape, act="swish", **options)], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
def test_launches(backend, training):
    """Two where a batch's statistics come first, else one."""
    x, scale, shift = (torch.randn(4, 8, 8, 8, requires_grad=True) for _ in range(3))
    running = (None, None) if training else (torch.zeros(8), torch.ones(8))
    each = 2 if training else 1
    with emulated(backend, 80) as log:
        y = spade_norm(x, scale, shift, *running, training=training, act="lrelu")
        assert len(log.launches) == each
        g = torch.autograd.grad(y, [x, scale, shift], torch.ones_like(y), create_graph=True)
        assert len(log.launches) == 2 * each
        torch.autograd.grad(sum(t.square().sum() for t in g), [x, scale, shift])
        assert len(log.launches) == 3 * each
