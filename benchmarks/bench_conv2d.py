"""conv2d and conv_transpose2d at shapes of DCGAN (batches 16 and 64, width 64 and 32) and StyleGAN2 (batch 4)."""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import conv2d, conv_transpose2d


def case(n, channels, size, kernel, stride=1, padding=0, transposed=False):
    """`channels` (in, out) and a square input of `size`."""
    i, o = channels
    weight = (i, o, kernel, kernel) if transposed else (o, i, kernel, kernel)
    out = (size - 1) * stride - 2 * padding + kernel if transposed else (size + 2 * padding - kernel) // stride + 1

    def make():
        torch.manual_seed(0)
        return [torch.randn(n, i, size, size), torch.randn(weight) / (i * kernel) ** 0.5]

    def run(x, w):
        return (conv_transpose2d if transposed else conv2d)(x, w, None, stride, padding)

    def plain(x, w):
        return (F.conv_transpose2d if transposed else F.conv2d)(x, w, None, stride, padding)

    def plain_last(x, w):  # through channels_last, to the same layout of the result
        last = torch.channels_last
        return plain(x.contiguous(memory_format=last), w.contiguous(memory_format=last)).contiguous()

    providers = {
        "eager": plain,
        "eager channels_last": plain_last,
        "compiled": compiled(plain),
        "cpu": ours("cpu", run),
        "cuda": ours("cuda", run),
        "triton": ours("triton", run),
    }
    name = "conv_transpose2d" if transposed else "conv2d"
    small = size if transposed else out
    flops = 2 * n * i * o * kernel**2 * small**2
    moved = 4 * (n * (i * size**2 + o * out**2) + i * o * kernel**2)
    label = f"{name} [{n},{i},{size},{size}] to {o} k{kernel} s{stride} p{padding}"
    return Case(label, make, providers, bytes=moved, flops=flops)


LAYERS = [((512, 256), 4), ((256, 128), 8), ((128, 64), 16), ((64, 3), 32)]  # DCGAN: channels, smaller image
STYLEGAN = [(512, 8), (256, 32), (128, 64), (64, 128)]

CASES = (
    [case(n, (100, 512), 1, 4, transposed=True) for n in (16, 64)]
    + [case(n, channels, size, 4, 2, 1, transposed=True) for n in (16, 64) for channels, size in LAYERS]
    + [case(n, channels[::-1], 2 * size, 4, 2, 1) for n in (16, 64) for channels, size in reversed(LAYERS)]
    + [case(n, (512, 1), 4, 4) for n in (16, 64)]
    + [case(64, (32, 1), 16, 4, 2, 1, transposed=True), case(64, (1, 32), 32, 4, 2, 1)]
    + [case(4, (c, c), h, 3, 1, 1) for c, h in STYLEGAN]
    + [case(4, (c, c), h, 3, 2, 0, transposed=True) for c, h in STYLEGAN]
    + [case(4, (c, c), h + 1, 3, 2, 0) for c, h in STYLEGAN]
    + [case(4, (64, 3), 128, 1), case(4, (3, 64), 128, 1), case(4, (512, 3), 16, 1)]
)


@parametrize(CASES)
def test_conv2d(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
