"""fade_in's GPU kernels, executed without a GPU."""

import pytest
import test_fade_in
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from op_tests import assert_as_true_as_reference

import gankernels


class TestFadeInOnGpu(OnGpuInPart, test_fade_in.TestFadeIn):
    gpu_backends = ("triton", "cuda")


PATHS = [  # low shape, r, dtype, channels_last, elements before the first, kernel
    ((2, 3, 5, 8), 2, torch.float32, False, 0, "rows<float, 2>"),
    ((2, 3, 5, 8), 2, torch.bfloat16, False, 0, "rows<__nv_bfloat16, 2>"),
    ((1, 3, 3, 5), 2, torch.float64, False, 0, "rows<double, 2>"),
    ((1, 3, 2, 8), 2, torch.float32, False, 1, "any<float, 1>"),
    ((3, 4, 2, 3), 1, torch.float16, True, 0, "rows<__half, 1>"),
    ((1, 2, 3, 5), 1, torch.float32, False, 1, "any<float, 1>"),
    ((2, 8, 3, 5), 2, torch.float16, True, 0, "any<__half, 8>"),
    ((2, 12, 2, 3), 3, torch.float32, True, 0, "any<float, 4>"),
    ((1, 3, 2, 3), 4, torch.bfloat16, False, 0, "any<__nv_bfloat16, 1>"),
]


def make(shape, dtype, last, offset):
    n, c, h, w = shape
    flat = torch.randn(offset + n * c * h * w, dtype=dtype)[offset:]
    return flat.view(n, h, w, c).permute(0, 3, 1, 2) if last else flat.view(shape)


def held(backend, tensors):
    """All derivatives on `backend` against the reference; returns the names of the kernels."""
    with gankernels.backend("reference"):
        theirs = test_fade_in.all_derivatives(*tensors)
        truth = test_fade_in.all_derivatives(*(t.double() for t in tensors))
    with emulated(backend, 80) as log:
        ours = test_fade_in.all_derivatives(*tensors)
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
    return {launch.name for launch in log.launches}


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize(("low", "r", "dtype", "last", "offset", "kernel"), PATHS, ids=lambda v: str(v))
def test_cuda_paths(low, r, dtype, last, offset, kernel):
    torch.manual_seed(0)
    n, c, h, w = low
    x, g, v = (make((n, c, h * r, w * r), dtype, last, offset) for _ in range(3))
    names = held("cuda", (x, make(low, dtype, last, offset), torch.rand([], dtype=dtype), g, v))
    assert names == {f"gk::fade_in_{what}_{kernel}" for what in ("value", "adjoint")}


@pytest.mark.parametrize(
    ("low", "r", "last"),
    [((2, 3, 5, 8), 2, False), ((1, 16, 3, 2), 2, True), ((1, 3, 2, 3), 3, False), ((1, 2, 2, 2), 4, False)],
    ids=lambda v: str(v),
)
def test_triton_paths(low, r, last):
    pytest.importorskip("triton")
    torch.manual_seed(0)
    n, c, h, w = low
    x, g, v = (make((n, c, h * r, w * r), torch.float32, last, 0) for _ in range(3))
    held("triton", (x, make(low, torch.float32, last, 0), torch.rand([]), g, v))
