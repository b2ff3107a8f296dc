"""The sums' GPU kernels, executed without a GPU."""

import pytest
import test_per_sample
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels import ops


class TestSumSquaresOnGpu(OnGpu, test_per_sample.TestSumSquaresPerSample):
    gpu_backends = ("triton", "cuda")
    test_of_any_order = None


class TestNormOnGpu(OnGpu, test_per_sample.TestNormPerSample):
    gpu_backends = ("triton", "cuda")
    test_of_any_order = None


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("name", ["sum_squares_per_sample", "norm_per_sample"])
@pytest.mark.parametrize(
    ("shape", "dtype", "offset", "parts"),
    [
        ((2, 40000), torch.float32, 0, True),
        ((2, 40000), torch.bfloat16, 1, True),
        ((3, 3, 5, 7), torch.float16, 0, False),
        ((2, 8, 6, 6), torch.float16, 0, False),
        ((3, 1030), torch.float64, 0, False),
    ],
    ids=str,
)
def test_paths(backend, name, shape, dtype, offset, parts):
    """Whole and cut samples, with and without 16-byte accesses; the derivatives up to the third."""
    if backend == "cuda" and (reason := nvrtc.missing()):
        pytest.skip(reason)
    torch.manual_seed(0)
    x, v = (torch.randn(offset + torch.Size(shape).numel()).to(dtype)[offset:].view(shape) for _ in range(2))

    def run(x, v):
        x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
        y = getattr(ops, name)(x)
        gy = torch.linspace(1, 2, len(y)).to(y).requires_grad_()
        (first,) = torch.autograd.grad(y, x, gy, create_graph=True)
        second = torch.autograd.grad(first, [x, gy], v, create_graph=True)
        return [y, first, *second], [torch.autograd.grad(second[0], t, v, retain_graph=True)[0] for t in (v, gy)]

    with gankernels.backend("reference"):
        theirs, truth = run(x, v), run(x.double(), v.double())
    with emulated(backend, 80) as log:
        ours = run(x, v)
    for i, (a, r, t) in enumerate(zip(ours[0], theirs[0], truth[0], strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
    for a, t in zip(ours[1], truth[1], strict=True):  # composed in x's dtype: rounded twice
        torch.testing.assert_close(a.double(), t, rtol=0, atol=8 * torch.finfo(dtype).eps * t.abs().max().item())
    assert any("parts" in launch.name for launch in log.launches) == parts
