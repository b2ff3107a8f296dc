"""gradient_reversal at DANN's features: a scaled copy backward, nothing forward."""

import torch
from bench_tools import Case, bench, ours, parametrize

from gankernels.ops import gradient_reversal


class Reversed(torch.autograd.Function):
    """The same in plain PyTorch, to the first order."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -0.5 * g


def case(shape):
    providers = {"eager": Reversed.apply, "cpu": ours("cpu", lambda x: gradient_reversal(x, 0.5))}
    return Case(f"gradient_reversal {list(shape)}", lambda: [torch.randn(shape)], providers)


CASES = [case((64, 1024)), case((64, 48, 8, 8))]


@parametrize(CASES)
def test_gradient_reversal(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
