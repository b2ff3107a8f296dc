"""minibatch_stddev at the end of ProGAN's and StyleGAN2's discriminators: 512 channels of 4x4."""

import math

import torch
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import minibatch_stddev


def plain(x, group=4):
    n, c, h, w = x.shape
    parts = x.reshape(group, n // group, 1, c, h, w)
    deviation = (parts.var(0, correction=0) + 1e-8).sqrt().mean((2, 3, 4))
    planes = deviation.repeat(group, 1)[:, :, None, None].expand(n, 1, h, w)
    return torch.cat([x, planes], 1)


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        return [torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)]

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", minibatch_stddev),
        "cuda": ours("cuda", minibatch_stddev),
        "triton": ours("triton", minibatch_stddev),
    }
    label = f"minibatch_stddev {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers, bytes=2 * dtype.itemsize * math.prod(shape))


SHAPES = [(4, 512, 4, 4), (16, 512, 4, 4), (32, 512, 4, 4)]
CASES = [case(shape) for shape in SHAPES]
CASES += [case(SHAPES[1], last=True), case(SHAPES[1], dtype=torch.bfloat16)]


@parametrize(CASES)
def test_minibatch_stddev(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
