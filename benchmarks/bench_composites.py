"""The operators without kernels of their own, beside the usual compositions: at most as many passes over memory."""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import fade_in


def case(label, run, plain, *shapes):
    def make():
        torch.manual_seed(0)
        return [torch.randn(shape) for shape in shapes]

    providers = {"eager": plain, "compiled": compiled(plain), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    return Case(f"{label} {list(shapes[0])}", make, providers)


def plain_fade(image, lower, weight, bias):
    low = F.interpolate(F.conv2d(lower, weight, bias), scale_factor=2)
    return low * 0.7 + image * 0.3


CASES = [
    case(
        "fade_in", lambda image, lower, w, b: fade_in(image, lower, 0.3, w, b), plain_fade,
        (4, 3, 256, 256), (4, 128, 128, 128), (3, 128, 1, 1), (3,),
    ),
]  # fmt: skip


@parametrize(CASES)
def test_composites(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
