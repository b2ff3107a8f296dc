"""The operators without kernels of their own, beside the usual compositions: at most as many passes over memory."""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import add_noise, fade_in, maxout, pixel_shuffle_act


def case(label, run, plain, *shapes):
    def make():
        torch.manual_seed(0)
        return [torch.randn(shape) for shape in shapes]

    providers = {"eager": plain, "compiled": compiled(plain), "cpu": ours("cpu", run), "triton": ours("triton", run)}
    return Case(f"{label} {list(shapes[0])}", make, providers)


def plain_maxout(x):
    return x.unflatten(1, (-1, 5)).max(2).values


def plain_noise(x, noise, strength):
    return x + noise * strength.view(1, -1, 1, 1)


def plain_fade(image, lower, weight, bias):
    low = F.interpolate(F.conv2d(lower, weight, bias), scale_factor=2)
    return low * 0.7 + image * 0.3


def plain_shuffle(x, bias):
    return F.leaky_relu(F.pixel_shuffle(x + bias.view(1, -1, 1, 1), 2), 0.2)


CASES = [
    case("maxout", lambda x: maxout(x, 5), plain_maxout, (100, 1200)),
    case("add_noise", add_noise, plain_noise, (4, 128, 128, 128), (4, 1, 128, 128), (128,)),
    case(
        "fade_in", lambda image, lower, w, b: fade_in(image, lower, 0.3, w, b), plain_fade,
        (4, 3, 256, 256), (4, 128, 128, 128), (3, 128, 1, 1), (3,),
    ),
    case(
        "pixel_shuffle_act", lambda x, b: pixel_shuffle_act(x, 2, b, act="lrelu", gain=1), plain_shuffle,
        (4, 256, 48, 48), (256,),
    ),
]  # fmt: skip


@parametrize(CASES)
def test_composites(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
