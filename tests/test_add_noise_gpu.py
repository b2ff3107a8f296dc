"""add_noise's GPU kernels, executed without a GPU."""

import pytest
import test_add_noise
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import add_noise


class TestAddNoiseOnGpu(OnGpuInPart, test_add_noise.TestAddNoise):
    gpu_backends = ("triton", "cuda")


PATHS = [  # shape, samples of noise, numbers of strength, dtype, channels_last, elements before the first, elements
    ((3, 9, 12, 16), 3, 9, torch.float32, False, 0, 4),
    ((3, 70, 9, 8), 1, 1, torch.bfloat16, False, 0, 8),
    ((2, 5, 5, 7), 2, 5, torch.float16, False, 0, 1),
    ((2, 5, 8, 8), 2, 5, torch.float32, False, 1, 1),
    ((2, 24, 5, 7), 1, 24, torch.bfloat16, True, 0, 8),
    ((2, 24, 5, 7), 2, 1, torch.float32, True, 0, 4),
    ((2, 3, 5, 7), 2, 3, torch.float64, True, 0, 1),
]


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize(("shape", "each", "numbers", "dtype", "last", "offset", "pack"), PATHS, ids=lambda v: str(v))
def test_cuda_paths(shape, each, numbers, dtype, last, offset, pack):
    torch.manual_seed(0)
    n, c, h, w = shape

    def make():
        flat = torch.randn(offset + n * c * h * w, dtype=dtype)[offset:]
        return flat.view(n, h, w, c).permute(0, 3, 1, 2) if last else flat.view(shape)

    noise, strength = torch.randn(each, 1, h, w, dtype=dtype), torch.randn(numbers, dtype=dtype)
    tensors = make(), noise, strength if numbers > 1 else strength[0], make()

    def run(*tensors):
        x, noise, strength, g = (t.detach().requires_grad_() for t in tensors)
        leaves = [x, noise, strength]
        y = add_noise(x, noise, strength)
        first = torch.autograd.grad(y, leaves, g, create_graph=True)
        return [y, *first, *torch.autograd.grad(first[1:], [*leaves[1:], g], [noise.detach(), strength.detach()])]

    with gankernels.backend("reference"):
        theirs, truth = run(*tensors), run(*(t.double() for t in tensors))
    with emulated("cuda", 80) as log:
        ours = run(*tensors)
    kind = {torch.float32: "float", torch.float64: "double", torch.float16: "__half", torch.bfloat16: "__nv_bfloat16"}
    names = {launch.name for launch in log.launches}
    assert names >= {f"gk::add_noise_{what}<{kind[dtype]}, {pack}>" for what in ("value", "sums")}, names
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
