"""pixel_norm at shapes of ProGAN's generator (batch 4) and of StyleGAN's latents."""

import math

import torch
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import pixel_norm


def plain(x):
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        return [torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)]

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", pixel_norm),
        "cuda": ours("cuda", pixel_norm),
        "triton": ours("triton", pixel_norm),
    }
    label = f"pixel_norm {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers, bytes=2 * dtype.itemsize * math.prod(shape))


SHAPES = [(4, 512, 4, 4), (4, 512, 32, 32), (4, 128, 128, 128)]
CASES = [case(shape) for shape in SHAPES] + [case((32, 512))]
CASES += [case(SHAPES[1], last=True), case(SHAPES[1], dtype=torch.bfloat16)]


@parametrize(CASES)
def test_pixel_norm(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
