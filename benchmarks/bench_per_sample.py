"""Sums over a sample at shapes of gradient penalties: DCGAN (batch 64) and StyleGAN2 (batch 4), and of path lengths."""

import math

import torch
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels import ops


def case(name, plain, shape):
    op = getattr(ops, name)

    def make():
        torch.manual_seed(0)
        return [torch.randn(shape)]

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", op),
        "cuda": ours("cuda", op),
        "triton": ours("triton", op),
    }
    return Case(f"{name} {list(shape)}", make, providers, bytes=4 * math.prod(shape))


SHAPES = [(64, 3, 64, 64), (4, 3, 256, 256), (16, 14, 512)]
CASES = [case("sum_squares_per_sample", lambda x: x.square().flatten(1).sum(1), shape) for shape in SHAPES]
CASES += [case("norm_per_sample", lambda x: torch.linalg.vector_norm(x.flatten(1), dim=1), shape) for shape in SHAPES]


@parametrize(CASES)
def test_per_sample(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
