"""bias_act's GPU kernels, executed without a GPU."""

import pytest
import test_bias_act
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import bias_act


class TestBiasActOnGpu(OnGpu, test_bias_act.TestBiasAct):
    gpu_backends = ("triton", "cuda")


PATHS = [  # shape, dtype, layout, elements before the first, the kernel that reduces, whether a second one adds up
    ((2, 16, 3, 5), torch.float32, "NHWC", 0, "reduce<float, 1, true>", False),
    ((9, 48, 16, 16), torch.bfloat16, "NHWC", 0, "reduce<__nv_bfloat16, 1, true>", True),
    ((2, 16, 3, 5), torch.float32, "NHWC", 1, "reduce<float, 1, false>", False),
    ((3, 2, 96, 64), torch.bfloat16, "NCHW", 0, "reduce<__nv_bfloat16, 1, false>", True),
    ((3, 5, 5, 7), torch.float16, "NCHW", 0, "reduce<__half, 1, false>", False),
    ((2, 5, 8, 8), torch.float16, "NCHW", 3, "reduce<__half, 1, false>", False),
    ((70, 40), torch.float64, "NCHW", 0, "reduce<double, 1, true>", False),
    ((70, 9), torch.float32, "NCHW", 0, "reduce<float, 1, false>", False),
]


@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
@pytest.mark.parametrize(("shape", "dtype", "layout", "offset", "kernel", "twice"), PATHS, ids=lambda v: str(v))
def test_cuda_paths(shape, dtype, layout, offset, kernel, twice):
    torch.manual_seed(0)

    def make(*sizes):
        flat = torch.randn(offset + torch.Size(sizes).numel(), dtype=dtype)[offset:]
        if layout == "NCHW" or len(sizes) == 1:
            return flat.view(sizes)
        n, c, h, w = sizes
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)

    x, b, g, v = make(*shape), make(shape[1]), make(*shape), make(*shape)

    def run(*tensors):
        x, b, g = (t.detach().requires_grad_() for t in tensors)
        y = bias_act(x, b, act="swish", clamp=1.5)
        first = torch.autograd.grad(y, [x, b], g, create_graph=True)
        only = bias_act(x.detach(), b, act="swish").sum()
        return [y, *first, torch.autograd.grad(only, b)[0], *torch.autograd.grad(first, [x, b, g], [v.to(x), b])]

    with gankernels.backend("reference"):
        theirs, truth = run(x, b, g), run(x.double(), b.double(), g.double())
    with emulated("cuda", 80) as log:
        ours = run(x, b, g)
    names = [launch.name for launch in log.launches]
    assert f"gk::bias_act_{kernel}" in names
    assert any("sums" in name for name in names) == twice
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
