"""modulate_act at shapes of StyleGAN2 (batch 4): the scaling before a convolution, and all that follows one."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import modulate_act


def scaled(x, s):
    return x * s[:, :, None, None]


def epilogue(x, s, b, noise):
    y = F.leaky_relu(torch.addcmul(noise + b[:, None, None], x, s[:, :, None, None]), 0.2)
    return (y * math.sqrt(2)).clamp(-256, 256)


def case(shape, whole):
    n, c, h, w = shape

    def make():
        torch.manual_seed(0)
        tensors = [torch.randn(shape), torch.randn(n, c)]
        return [*tensors, torch.randn(c), torch.randn(h, w)] if whole else tensors

    def run(x, s, *rest):
        if whole:
            return modulate_act(x, s, rest[0], noise=rest[1], act="lrelu", clamp=256)
        return modulate_act(x, s)

    plain = epilogue if whole else scaled
    label = f"modulate_act {'noise, bias, lrelu, clamp' if whole else 'scale'} {list(shape)}"
    return Case(label, make, providers(plain, run), bytes=8 * math.prod(shape))


SHAPES = [(4, 512, 8, 8), (4, 256, 32, 32), (4, 64, 128, 128)]
CASES = [case(shape, whole) for whole in (False, True) for shape in SHAPES]


@parametrize(CASES)
def test_modulate_act(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
