"""maxout's GPU kernels, executed without a GPU."""

import pytest
import test_maxout
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated

import gankernels
from gankernels.ops import maxout


class TestMaxoutOnGpu(OnGpuInPart, test_maxout.TestMaxout):
    gpu_backends = ("triton", "cuda")


PATHS = [  # shape, pieces, dtype, channels_last, elements before the first, the kernel
    ((2, 8, 8, 9), 2, torch.float32, False, 0, "apart<float, 0, 4>"),
    ((2, 8, 3, 5), 2, torch.float32, False, 0, "apart<float, 0, 1>"),
    ((2, 8, 3, 5), 2, torch.float32, True, 0, "near<float, 0, 2>"),
    ((2, 8, 3, 4), 4, torch.bfloat16, True, 0, "near<__nv_bfloat16, 0, 4>"),
    ((70, 40), 5, torch.float16, False, 0, "apart<__half, 0, 1>"),
    ((70, 40), 2, torch.float16, False, 3, "apart<__half, 0, 1>"),
    ((3, 4, 8, 8), 2, torch.float64, True, 0, "near<double, 0, 2>"),
]


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize(("shape", "pieces", "dtype", "last", "offset", "kernel"), PATHS, ids=lambda v: str(v))
def test_cuda_paths(shape, pieces, dtype, last, offset, kernel):
    torch.manual_seed(0)
    flat = torch.randint(-4, 5, (offset + torch.Size(shape).numel(),)).to(dtype)[offset:]
    n, c, *rest = shape
    x = flat.view(n, *rest, c).movedim(-1, 1) if last else flat.view(shape)

    def run(x):
        x = x.detach().requires_grad_()
        y = maxout(x, pieces)
        w = torch.arange(y.numel(), dtype=torch.float64).view(y.shape).remainder(16).to(dtype).requires_grad_()
        (g,) = torch.autograd.grad(y, x, w, create_graph=True)
        return y, g, *torch.autograd.grad(g.square().sum(), w)

    with gankernels.backend("reference"):
        theirs = run(x)
    with emulated("cuda", 80) as log:
        ours = run(x)
    assert f"gk::maxout_{kernel}" in [launch.name for launch in log.launches]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
