"""grid_sample2d at the sampling of adaptive augmentation (images of 64 and 128, upsampled with their margin) through
an affine map, and with a grid that learns."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import affine_grid_sample2d, grid_sample2d

TURN = torch.tensor([[math.cos(0.3), math.sin(0.3), 0.02], [-math.sin(0.3), math.cos(0.3), -0.01]])


def _providers(plain, fused):
    return {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", fused),
        "cuda": ours("cuda", fused),
        "triton": ours("triton", fused),
    }


def affine(n, channels, size, out, dtype=torch.float32):
    theta = (out / size * TURN).expand(n, 2, 3).to(dtype)

    def plain(x):
        grid = F.affine_grid(theta.to(x.device), [n, channels, out, out], False)
        return F.grid_sample(x, grid, align_corners=False)

    def fused(x):
        return affine_grid_sample2d(x, theta.to(x.device), (out, out))

    providers = _providers(plain, fused)
    label = f"grid_sample2d affine {str(dtype)[6:]} {[n, channels, size, size]} to {out}"
    moved = 2 * n * channels * out * out * dtype.itemsize
    return Case(label, lambda: [torch.randn(n, channels, size, size).to(dtype)], providers, bytes=moved)


def learnt(n, channels, size, last):
    layout = torch.channels_last if last else torch.contiguous_format

    def make():
        torch.manual_seed(0)
        x = torch.randn(n, channels, size, size).contiguous(memory_format=layout)
        return [x, torch.rand(n, size, size, 2) * 2 - 1]

    providers = _providers(
        lambda x, grid: F.grid_sample(x, grid, align_corners=False), lambda x, grid: grid_sample2d(x, grid)
    )
    label = f"grid_sample2d {'channels_last' if last else 'contiguous'} {[n, channels, size, size]}"
    return Case(label, make, providers, bytes=2 * n * channels * size * size * 4)


CASES = [
    affine(16, 3, 190, 138),
    affine(4, 3, 380, 266),
    affine(16, 3, 190, 138, torch.bfloat16),
    learnt(8, 64, 32, False),
    learnt(8, 64, 32, True),
]


def _without(case):
    """PyTorch's grid_sample has no second derivative, and on the CPU no bfloat16."""
    cannot = case.cannot

    def reason(provider, device, order):
        if provider in ("eager", "compiled") and order == "second order":
            return "PyTorch has no second derivative of grid_sample"
        if provider in ("eager", "compiled") and "bfloat16" in case.label and device.type == "cpu":
            return "PyTorch has no grid_sample of bfloat16 on the CPU"
        return cannot(provider, device, order)

    case.cannot = reason
    return case


CASES = [_without(case) for case in CASES]


@parametrize(CASES)
def test_grid_sample2d(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
