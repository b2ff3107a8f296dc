"""bias_act at shapes of DCGAN (batch 64) and StyleGAN2 (batch 4)."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import bias_act


def lrelu(x, b):
    return F.leaky_relu(x + b.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


def swish(x, b):
    return (F.silu(x + b.view(1, -1, 1, 1)) * math.sqrt(2)).clamp(-256, 256)


def tanh(x, b):
    return torch.tanh(x + b.view(1, -1, 1, 1))


def case(shape, act, plain, **kwargs):
    def run(x, b):
        return bias_act(x, b, act=act, **kwargs)

    def make():
        torch.manual_seed(0)
        return [torch.randn(shape), torch.randn(shape[1])]

    return Case(f"bias_act {act} {list(shape)}", make, providers(plain, run), bytes=8 * math.prod(shape))


CASES = [
    case((4, 64, 128, 128), "lrelu", lrelu),
    case((4, 512, 8, 8), "lrelu", lrelu),
    case((4, 512, 4, 4), "lrelu", lrelu),
    case((64, 128, 16, 16), "lrelu", lrelu),
    case((4, 64, 128, 128), "swish", swish, clamp=256),
    case((64, 3, 64, 64), "tanh", tanh),
]


@parametrize(CASES)
def test_bias_act(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
