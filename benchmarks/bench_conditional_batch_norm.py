"""conditional_batch_norm at BigGAN's generator blocks, training."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import conditional_batch_norm


def plain(x, scale, shift):
    norm = F.batch_norm(x, None, None, None, None, True)
    return F.relu(torch.addcmul(shift[:, :, None, None], norm, scale[:, :, None, None]))


def run(x, scale, shift):
    return conditional_batch_norm(x, scale, shift, None, None, training=True, act="relu")


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, *torch.randn(2, *shape[:2]).to(dtype).unbind()]

    providers = {"eager": plain, "compiled": compiled(plain), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    label = f"conditional_batch_norm {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers, bytes=2 * dtype.itemsize * math.prod(shape))


CASES = [case((16, 512, 8, 8)), case((16, 128, 64, 64)), case((16, 128, 64, 64), last=True)]
CASES += [case((16, 512, 8, 8), torch.bfloat16)]


@parametrize(CASES)
def test_conditional_batch_norm(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
