"""conv2d_resample at the shapes of StyleGAN2's layers at batch 4."""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import conv2d_resample, setup_filter

FILTER = setup_filter([1, 3, 3, 1])
LAYERS = [(512, 8), (256, 32), (128, 64), (64, 128)]


def blur(x, gain, padding):
    """Four taps on each axis as a grouped convolution, the fastest that PyTorch has."""
    c = x.shape[1]
    kernel = (FILTER * gain).to(x.device).expand(c, 1, 4, 4)
    return F.conv2d(x, kernel, padding=padding, groups=c)


def case(c, size, up):
    """[4, c, size, size] to twice the size, or half."""

    def make():
        torch.manual_seed(0)
        return [torch.randn(4, c, size, size), torch.randn(c, c, 3, 3) / (3 * c**0.5)]

    def run(x, w):
        kwargs = {"up": 2, "flip_weight": False} if up else {"down": 2}
        return conv2d_resample(x, w, FILTER.to(x.device), padding=1, **kwargs)

    def plain(x, w):
        if up:
            return blur(F.conv_transpose2d(x, w.transpose(0, 1), stride=2), 4, 1)
        return F.conv2d(blur(x, 1, 2), w, stride=2)

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "reference": ours("reference", run),
        "cpu": ours("cpu", run),
        "triton": ours("triton", run),
    }
    small, result = (size, 2 * size) if up else (size // 2, size // 2)
    moved = 4 * (4 * c * (size**2 + result**2) + c * c * 9)
    label = f"conv2d_resample [4,{c},{size},{size}] {'up' if up else 'down'} 2"
    return Case(label, make, providers, moved, 2 * 4 * c * c * 9 * small**2)


CASES = [case(c, size, up) for up in (False, True) for c, size in LAYERS]


@parametrize(CASES)
def test_conv2d_resample(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
