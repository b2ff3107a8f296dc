"""batch_norm_act at the shapes of DCGAN's 64x64 pair (batch 64), training and evaluation."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import batch_norm_act


def case(shape, training=True, dtype=torch.float32, last=False):
    def running(x):
        return torch.zeros(shape[1], device=x.device), torch.ones(shape[1], device=x.device)

    def run(x, w, b):
        return batch_norm_act(x, w, b, *running(x), training=training, act="lrelu")

    def plain(x, w, b):
        return F.leaky_relu(F.batch_norm(x, *running(x), w, b, training), 0.2)

    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, torch.rand(shape[1]), torch.rand(shape[1])]

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", run),
        "triton": ours("triton", run),
    }
    layout = "channels_last" if last else "contiguous"
    mode = "training" if training else "evaluation"
    label = f"batch_norm_act {mode} {str(dtype)[6:]} {layout} {list(shape)}"
    return Case(label, make, providers, bytes=2 * dtype.itemsize * math.prod(shape))


SHAPES = [(64, 512, 4, 4), (64, 256, 8, 8), (64, 128, 16, 16), (64, 64, 32, 32)]
CASES = [case(shape) for shape in SHAPES]
CASES += [case(shape, last=True) for shape in SHAPES]
CASES += [case(SHAPES[0], training=False), case(SHAPES[2], training=False)]
CASES += [case(SHAPES[2], dtype=torch.bfloat16)]


@parametrize(CASES)
def test_batch_norm_act(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
