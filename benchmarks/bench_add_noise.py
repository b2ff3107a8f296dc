"""add_noise at layers of StyleGAN (batch 4): a strength of every channel, and noise of every sample."""

import math

import torch
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import add_noise


def plain(x, strength, noise):
    return x + noise * strength.view(1, -1, 1, 1)


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, torch.randn(shape[1], dtype=dtype), torch.randn(shape[0], 1, *shape[2:], dtype=dtype)]

    def run(x, strength, noise):
        return add_noise(x, noise, strength)

    label = f"add_noise {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    size = math.prod(shape)
    return Case(label, make, providers(plain, run), bytes=dtype.itemsize * (2 * size + size // shape[1]))


SHAPES = [(4, 512, 16, 16), (4, 128, 128, 128)]
CASES = [case(shape) for shape in SHAPES]
CASES += [case(SHAPES[1], last=True), case(SHAPES[1], dtype=torch.bfloat16)]


@parametrize(CASES)
def test_add_noise(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
