"""instance_norm_act at CycleGAN's residual blocks and at a wide layer."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import instance_norm_act


def plain(x, w, b):
    return F.relu(F.instance_norm(x, weight=w, bias=b))


def run(x, w, b):
    return instance_norm_act(x, w, b, act="relu")


def case(shape, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, *torch.rand(2, shape[1]).to(dtype).unbind()]

    providers = {"eager": plain, "compiled": compiled(plain), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    label = f"instance_norm_act {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shape)}"
    return Case(label, make, providers, bytes=2 * dtype.itemsize * math.prod(shape))


CASES = [case((1, 256, 64, 64)), case((4, 64, 128, 128)), case((4, 64, 128, 128), last=True)]
CASES += [case((1, 256, 64, 64), torch.bfloat16)]


@parametrize(CASES)
def test_instance_norm_act(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
