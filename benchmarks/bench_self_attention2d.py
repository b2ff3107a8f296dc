"""self_attention2d at SAGAN's layer (32 x 32, keys of all pixels) and BigGAN's (64 x 64, keys pooled)."""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import self_attention2d


def plain(q, k, v):
    weights = torch.softmax(q.flatten(2).mT @ k.flatten(2), dim=2)
    return (v.flatten(2) @ weights.mT).unflatten(2, q.shape[2:])


def sdpa(q, k, v):
    heads = [t.flatten(2).mT.contiguous().unsqueeze(1) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*heads, scale=1.0).squeeze(1).mT.unflatten(2, q.shape[2:])


def case(label, n, d, e, size, of_keys):
    def make():
        torch.manual_seed(0)
        keys = [torch.randn(n, c, of_keys, of_keys) for c in (d, e)]
        return [torch.randn(n, d, size, size), *keys]

    providers = {
        "eager": plain,
        "sdpa": sdpa,
        "compiled": compiled(plain),
        "cpu": ours("cpu", self_attention2d),
        "cuda": ours("cuda", self_attention2d),
    }
    flops = 2 * n * size**2 * of_keys**2 * (d + e)
    return Case(f"self_attention2d {label}", make, providers, flops=flops)


CASES = [case("SAGAN", 4, 32, 128, 32, 32), case("BigGAN", 1, 24, 96, 64, 32)]


@parametrize(CASES)
def test_self_attention2d(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
