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


def vectors(weights):
    """u and v of each weight: constants of the derivatives."""
    return [[F.normalize(torch.ones(n, device=w.device), dim=0) for n in (w.shape[0], w[0].numel())] for w in weights]


def plain(*weights):
    """As torch.nn.utils.parametrizations.spectral_norm has it, one iteration."""
    out = []
    for w, (u, v) in zip(weights, vectors(weights), strict=True):
        matrix = w.flatten(1)
        with torch.no_grad():
            u = F.normalize(matrix.mv(v), dim=0)
            v = F.normalize(matrix.t().mv(u), dim=0)
        out.append((w / torch.dot(u, matrix.mv(v))).flatten())
    return torch.cat(out)


def fused(*weights):
    us, vs = zip(*vectors(weights), strict=True)
    return torch.cat([y.flatten() for y in ops.spectral_norm(weights, us, vs)[0]])


def case(label, shapes):
    def make():
        torch.manual_seed(0)
        return [torch.randn(s) for s in shapes]

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
