"""spectral_norm of all weights of SNGAN's discriminator, and of BigGAN's, beside PyTorch's formula layer by layer."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels import ops

SNGAN = [
    (64, 3, 3, 3), (128, 64, 4, 4), (128, 128, 3, 3), (256, 128, 4, 4), (256, 256, 3, 3), (512, 256, 4, 4),
    (512, 512, 3, 3), (1, 8192),
]  # fmt: skip
BIGGAN = [(96 * o, 96 * i, 3, 3) for i, o in ((1, 1), (1, 2), (2, 2), (2, 4), (4, 4))] + [(1, 384), (1000, 384)]


def plain(*tensors):
    """As torch.nn.utils.parametrizations.spectral_norm has it, one iteration."""
    n = len(tensors) // 3
    out = []
    for w, u, v in zip(tensors[:n], tensors[n : 2 * n], tensors[2 * n :], strict=True):
        matrix = w.flatten(1)
        with torch.no_grad():
            u = F.normalize(matrix.mv(v), dim=0)
            v = F.normalize(matrix.t().mv(u), dim=0)
        out.append((w / torch.dot(u, matrix.mv(v))).flatten())
    return torch.cat(out)


def fused(*tensors):
    n = len(tensors) // 3
    ys, _, _ = ops.spectral_norm(tensors[:n], tensors[n : 2 * n], tensors[2 * n :])
    return torch.cat([y.flatten() for y in ys])


def case(label, shapes):
    def make():
        torch.manual_seed(0)
        weights = [torch.randn(s) for s in shapes]
        us = [F.normalize(torch.randn(s[0]), dim=0) for s in shapes]
        vs = [F.normalize(torch.randn(math.prod(s[1:])), dim=0) for s in shapes]
        return [*weights, *us, *vs]

    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", fused),
        "cuda": ours("cuda", fused),
        "triton": ours("triton", fused),
    }
    return Case(f"spectral_norm {label}", make, providers, bytes=3 * 4 * sum(math.prod(s) for s in shapes))


CASES = [case("SNGAN", SNGAN), case("BigGAN", BIGGAN)]


@parametrize(CASES)
def test_spectral_norm(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
