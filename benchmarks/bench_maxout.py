"""maxout at layers of the 2014 discriminators (batch 100): dense ones of 5 pieces, convolutions of 2."""

import math

import torch
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import maxout


def case(shape, pieces, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        return [torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)]

    def plain(x):
        return x.unflatten(1, (-1, pieces)).max(2).values

    def run(x):
        return maxout(x, pieces)

    label = f"maxout {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers(plain, run), bytes=dtype.itemsize * math.prod(shape) * (pieces + 1) // pieces)


DENSE, CONVOLUTION = (100, 1200), (100, 96, 32, 32)
CASES = [case(DENSE, 5), case(CONVOLUTION, 2), case(CONVOLUTION, 2, last=True)]
CASES += [case(CONVOLUTION, 2, dtype=torch.bfloat16)]


@parametrize(CASES)
def test_maxout(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
