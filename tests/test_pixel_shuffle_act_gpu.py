"""pixel_shuffle_act's GPU kernels, executed without a GPU."""

import pytest
import test_pixel_shuffle_act
import torch
from gpu import nvrtc
from gpu.battery import OnGpuInPart, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import pixel_shuffle_act


class TestPixelShuffleActOnGpu(OnGpuInPart, test_pixel_shuffle_act.TestPixelShuffleAct):
    gpu_backends = ("triton", "cuda")


PATHS = [  # shape, factor, dtype, channels_last, elements before the first, the kernel, by order
    ((2, 8, 5, 16), 2, torch.float32, False, 0, "rows<float, {}, 2>"),
    ((3, 8, 24, 32), 2, torch.bfloat16, False, 0, "rows<__nv_bfloat16, {}, 2>"),
    ((1, 16, 3, 4), 4, torch.float16, False, 0, "rows<__half, {}, 4>"),
    ((2, 8, 5, 16), 2, torch.float64, False, 1, "any<double, {}, 1>"),
    ((2, 9, 5, 7), 3, torch.float32, False, 0, "any<float, {}, 1>"),
    ((2, 16, 5, 7), 2, torch.bfloat16, True, 0, "any<__nv_bfloat16, {}, 8>"),
    ((9, 48, 9, 9), 4, torch.float32, True, 0, "any<float, {}, 4>"),
]


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize(("shape", "r", "dtype", "last", "offset", "kernel"), PATHS, ids=lambda v: str(v))
def test_cuda_paths(shape, r, dtype, last, offset, kernel):
    torch.manual_seed(0)
    n, c, h, w = shape

    def make(c, h, w):
        flat = torch.randn(offset + n * c * h * w, dtype=dtype)[offset:]
        return flat.view(n, h, w, c).permute(0, 3, 1, 2) if last else flat.view(n, c, h, w)

    x, bias, g, v = make(c, h, w), torch.randn(c, dtype=dtype), make(c // r**2, h * r, w * r), make(c, h, w)

    def run(*tensors):
        x, bias, g = (t.detach().requires_grad_() for t in tensors)
        y = pixel_shuffle_act(x, r, bias, act="swish", clamp=1.5)
        first = torch.autograd.grad(y, [x, bias], g, create_graph=True)
        (only,) = torch.autograd.grad(pixel_shuffle_act(x, r, bias, act="lrelu"), bias, g)
        return [y, *first, only, *torch.autograd.grad(first, [x, bias, g], [v.to(x), bias.detach()])]

    with gankernels.backend("reference"):
        theirs, truth = run(x, bias, g), run(x.double(), bias.double(), g.double())
    with emulated("cuda", 80) as log:
        ours = run(x, bias, g)
    names = [launch.name for launch in log.launches]
    assert all(f"gk::pixel_shuffle_act_{kernel.format(order)}" in names for order in range(3)), names
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
