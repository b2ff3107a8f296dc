"""minibatch_stddev's GPU kernels, executed without a GPU."""

import pytest
import test_minibatch_stddev
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import minibatch_stddev


class TestMinibatchStddevOnGpu(OnGpu, test_minibatch_stddev.TestMinibatchStddev):
    gpu_backends = ("triton", "cuda")

    def samples(self):
        """Both layouts, groups of several sizes, a short group, nothing: each is several kernels to execute."""
        return iter(list(super().samples())[1:6])


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("shape", "group", "channels", "dtype"),
    [
        ((8, 16, 4, 4), 4, 1, torch.bfloat16),
        ((6, 8, 16, 16), 6, 2, torch.float32),
        ((33, 4, 3, 3), 33, 2, torch.float32),
        ((3, 9000, 1, 1), None, 1, torch.float16),
    ],
)
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_paths(backend, shape, group, channels, dtype, last):
    """Packs and single elements, held and reread samples, several blocks for one deviation."""
    if backend == "cuda" and nvrtc.missing():
        pytest.skip(nvrtc.missing())
    torch.manual_seed(0)
    x, v = (torch.randn(shape, dtype=dtype) + 2 for _ in range(2))
    gy = torch.randn(shape[0], shape[1] + channels, *shape[2:], dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)

    def run(*tensors):
        x, gy, v = (t.detach().requires_grad_() for t in tensors)
        y = minibatch_stddev(x, group, channels)
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, [x, gy], v)]

    with gankernels.backend("reference"):
        theirs, truth = run(x, gy, v), run(x.double(), gy.double(), v.double())
    with emulated(backend, 80):
        ours = run(x, gy, v)
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
