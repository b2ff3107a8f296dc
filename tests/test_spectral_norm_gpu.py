"""spectral_norm's GPU kernels, executed without a GPU."""

import pytest
import test_spectral_norm
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels import ops


class TestSpectralNormOnGpu(OnGpuInPart, test_spectral_norm.TestSpectralNorm):
    gpu_backends = ("triton", "cuda")

    test_third_order_raises_by_name = None
    test_vectors_in_the_weights_dtype = None

    def test_gradcheck(self, backend):
        self.constant = True
        super().test_gradcheck(backend)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize(
    ("shapes", "dtype", "classic"),
    [
        ([(70, 136), (9, 56), (1, 9)], torch.float32, False),
        ([(67, 40), (8, 1032)], torch.bfloat16, True),
        ([(5, 77), (16, 40), (130, 3)], torch.float16, False),
        ([(40, 272)], torch.float64, True),
    ],
    ids=str,
)
def test_paths(backend, shapes, dtype, classic):
    """Several programs a weight, with and without 16-byte accesses; derivatives of both orders."""
    if backend == "cuda" and (reason := nvrtc.missing()):
        pytest.skip(reason)
    torch.manual_seed(0)
    iterations = 1 + (dtype == torch.float64)
    weights = [torch.randn(s).to(dtype) for s in shapes]
    wide = torch.promote_types(dtype, torch.float32)
    us, vs = ([t.to(wide) for t in test_spectral_norm.vectors(weights, f)] for f in (True, False))
    draws = [torch.randn(w.shape).to(dtype) for w in weights]

    def run(weights, us, vs):
        weights = [w.detach().requires_grad_() for w in weights]
        ys, u, v = ops.spectral_norm(weights, us, None if classic else vs, iterations=iterations)
        gy = [d.to(w.dtype).requires_grad_() for d, w in zip(draws, weights, strict=True)]
        first = torch.autograd.grad(ys, weights, gy, create_graph=True)
        second = torch.autograd.grad(first, weights + gy, [g.detach().cos() for g in gy])
        return [*ys, *u, *v, *first, *second]

    with emulated(backend, 80) as log:
        ours = run(weights, us, vs)
    with gankernels.backend("reference"):
        theirs = run(weights, us, vs)
        truth = run(*([t.double() for t in ts] for ts in (weights, us, vs)))
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
    assert len(log.launches) == 2 * iterations + 1 + 2 + 3
