"""adain at StyleGAN's synthesis layers, and adain_from at style transfer's features."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import adain, adain_from


def plain(x, scale, shift):
    norm = F.batch_norm(x.flatten(0, 1)[None], None, None, scale.flatten(), shift.flatten(), True)
    return norm.view(x.shape)


def plain_from(content, style):
    var, mean = torch.var_mean(style, (2, 3), correction=0)
    return plain(content, (var + 1e-5).sqrt(), mean)


def naive(x, scale, shift):
    return torch.addcmul(shift[:, :, None, None], F.instance_norm(x), scale[:, :, None, None])


def case(shape, dtype=torch.float32, last=False, of_style=False):
    def make():
        torch.manual_seed(0)
        x = torch.randn(shape).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
        return [x, x.flip(0)] if of_style else [x, *torch.randn(2, *shape[:2]).to(dtype).unbind()]

    run, best = (adain_from, plain_from) if of_style else (adain, plain)
    providers = {"eager": best, "compiled": compiled(best), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    if not of_style:
        providers["naive"] = naive
    layout = "channels_last" if last else "contiguous"
    label = f"{run.__name__} {str(dtype)[6:]} {layout} {list(shape)}"
    return Case(label, make, providers, bytes=(3 if of_style else 2) * dtype.itemsize * math.prod(shape))


CASES = [case((4, 64, 128, 128)), case((4, 64, 128, 128), torch.bfloat16), case((4, 64, 128, 128), last=True)]
CASES += [case((16, 512, 8, 8)), case((4, 256, 32, 32), of_style=True)]


@parametrize(CASES)
def test_adain(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
