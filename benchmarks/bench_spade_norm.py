"""spade_norm at GauGAN's generator blocks, training."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import spade_norm


def plain(x, scale, shift):
    return F.leaky_relu(torch.addcmul(shift, F.batch_norm(x, None, None, None, None, True), 1 + scale), 0.2)


def run(x, scale, shift):
    return spade_norm(x, scale, shift, training=True, act="lrelu")


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        return [torch.randn(shape).to(dtype, memory_format=layout) for _ in range(3)]

    providers = {"eager": plain, "compiled": compiled(plain), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    label = f"spade_norm {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers, bytes=4 * dtype.itemsize * math.prod(shape))


CASES = [case((2, 512, 32, 32)), case((2, 64, 128, 128)), case((2, 64, 128, 128), last=True)]
CASES += [case((2, 512, 32, 32), torch.bfloat16)]


@parametrize(CASES)
def test_spade_norm(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
