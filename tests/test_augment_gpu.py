"""AugmentPipe on GPU kernels, executed without a GPU."""

import pytest
import torch
from gpu import nvrtc
from gpu.battery import emulated

import gankernels
from gankernels.nn import AugmentPipe, sample_keys


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_pipe(backend):
    """Value, gradient and second derivative as on reference, in three launches each, and nothing else of ours."""
    if backend == "cuda" and nvrtc.missing():
        pytest.skip(nvrtc.missing())
    pipe, keys = AugmentPipe(0.9, "bgcfnc"), sample_keys(1, torch.arange(2))
    x, gy, v = (torch.randn(2, 3, 8, 8) for _ in range(3))

    def run():
        a, b = x.clone().requires_grad_(), gy.clone().requires_grad_()
        y = pipe(a, keys=keys)
        (gx,) = torch.autograd.grad(y, a, b, create_graph=True)
        return [y, gx, *torch.autograd.grad(gx, b, v)]

    with gankernels.backend("reference"):
        expected = run()
    with emulated(backend, 80) as log:
        ours = run()
    assert len(log.launches) == 9, [launch.name for launch in log.launches]
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
