"""grid_sample2d's GPU kernels, executed without a GPU."""

import pytest
import test_grid_sample2d
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import affine_grid_sample2d, grid_sample2d


class TestGridSample2dOnGpu(OnGpuInPart, test_grid_sample2d.TestGridSample2d):
    gpu_backends = ("triton", "cuda")

    def samples(self):
        return iter(list(super().samples())[:6])


@pytest.fixture(params=["triton", "cuda"])
def backend(request):
    if request.param == "cuda" and nvrtc.missing():
        pytest.skip(nvrtc.missing())
    return request.param


def held(run, tensors, backend, launches, cc=80):
    """Runs on the GPU's kernels, against reference."""
    with gankernels.backend("reference"):
        theirs, truth = run(*tensors), run(*(t.double() for t in tensors))
    with emulated(backend, cc) as log:
        ours = run(*tensors)
    assert len(log.launches) == launches, [launch.name for launch in log.launches]
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_affine_paths(backend, last):
    """Without a grid, 16 bits, several blocks: the samples, their adjoint, and the samples of that."""
    x = test_grid_sample2d.image(2, 10 if last else 3, 9, 8, last=last).bfloat16()
    theta, gy = torch.randn(2, 2, 3) * 0.7, torch.randn(2, x.shape[1], 15, 21)

    def run(x, theta, gy, v):
        x, gy = x.detach().requires_grad_(), gy.detach().requires_grad_()
        y = affine_grid_sample2d(x, theta, (15, 21), align_corners=last)
        (gx,) = torch.autograd.grad(y, x, gy, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, gy, v)]

    held(run, [x, theta, gy.bfloat16(), torch.randn_like(x)], backend, 3)


def test_channels_beyond_a_tile(backend):
    x = test_grid_sample2d.image(1, 70, 5, 4, last=True).float()
    grid, gy = test_grid_sample2d.safe_grid(1, (5, 4), (6, 7)).float(), torch.randn(1, 70, 6, 7)

    def run(x, grid, gy):
        x, grid = x.detach().requires_grad_(), grid.detach().requires_grad_()
        y = grid_sample2d(x, grid)
        return [y, *torch.autograd.grad(y, [x, grid], gy)]

    held(run, [x, grid, gy], backend, 3)


@pytest.mark.parametrize("padding", test_grid_sample2d.PADDINGS)
@pytest.mark.parametrize("mode", test_grid_sample2d.MODES)
def test_points_that_are_no_numbers(backend, mode, padding):
    """Infinities, NaN, and points exactly between pixels or on a border."""
    far = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, -1.0, -0.5, 0.0, 0.25, 1.0])
    grid = torch.stack(torch.meshgrid(far, far, indexing="ij"), -1)[None]
    x = torch.randn(1, 2, 4, 4)
    with gankernels.backend("cpu"):
        expected = grid_sample2d(x, grid, mode=mode, padding_mode=padding)
    with emulated(backend, 80):
        torch.testing.assert_close(grid_sample2d(x, grid, mode=mode, padding_mode=padding), expected)


def test_deterministic_mode_refuses_the_atomics(backend):
    """By name, with the way out; with warn_only it warns and gives the same; samples and the grid's gradient run."""
    torch.manual_seed(0)
    x, grid = torch.randn(1, 1, 3, 3, requires_grad=True), torch.rand(1, 2, 2, 2, requires_grad=True)
    with gankernels.backend("reference"):
        torch.use_deterministic_algorithms(True)
        expected = torch.autograd.grad(grid_sample2d(x, grid).sum(), [x, grid])
    with emulated(backend, 80):
        y = grid_sample2d(x, grid).sum()
        with pytest.raises(RuntimeError, match=r"summed by atomics.*gankernels.backend\('reference'\)"):
            torch.autograd.grad(y, x, retain_graph=True)
        found = [*torch.autograd.grad(y, grid, retain_graph=True)]
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="summed by atomics"):
            found += torch.autograd.grad(y, x)
    torch.testing.assert_close(found, [expected[1], expected[0]])
