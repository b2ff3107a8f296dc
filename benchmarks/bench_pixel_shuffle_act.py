"""pixel_shuffle_act at the layers of SRGAN's upsampling (batch 4): bias and lrelu."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import pixel_shuffle_act


def plain(x, bias):
    return F.leaky_relu(F.pixel_shuffle(x + bias.view(1, -1, 1, 1), 2), 0.2)


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, torch.randn(shape[1], dtype=dtype)]

    def run(x, bias):
        return pixel_shuffle_act(x, 2, bias, act="lrelu", gain=1)

    label = f"pixel_shuffle_act {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers(plain, run), bytes=2 * dtype.itemsize * math.prod(shape))


SHAPES = [(4, 256, 24, 24), (4, 256, 48, 48)]
CASES = [case(shape) for shape in SHAPES]
CASES += [case(SHAPES[1], last=True), case(SHAPES[1], dtype=torch.bfloat16)]


@parametrize(CASES)
def test_pixel_shuffle_act(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
