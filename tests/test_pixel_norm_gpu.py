"""pixel_norm's GPU kernels, executed without a GPU."""

import pytest
import test_pixel_norm
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import pixel_norm


class TestPixelNormOnGpu(OnGpu, test_pixel_norm.TestPixelNorm):
    gpu_backends = ("triton", "cuda")

    def samples(self):
        """Every second call: each is a kernel to compile and to execute one instruction at a time."""
        return iter(list(super().samples())[:7:2] + list(super().samples())[1::6])


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 48, 8, 8), torch.bfloat16), ((1, 300, 3, 4), torch.float32), ((2, 9, 3, 3), torch.float16)],
)
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_paths(backend, shape, dtype, last):
    """Packs and single elements, vectors that lie together or apart, more channels than a tile."""
    if backend == "cuda" and nvrtc.missing():
        pytest.skip(nvrtc.missing())
    torch.manual_seed(0)
    x, v, gy = (torch.randn(shape, dtype=dtype) + 1 for _ in range(3))
    if last:
        x = x.contiguous(memory_format=torch.channels_last)

    def run(*tensors):
        x, gy, v = (t.detach().requires_grad_() for t in tensors)
        y = pixel_norm(x)
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, [x, gy], v)]

    with gankernels.backend("reference"):
        theirs, truth = run(x, gy, v), run(x.double(), gy.double(), v.double())
    with emulated(backend, 80) as log:
        ours = run(x, gy, v)
    assert len(log.launches) == 3
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
