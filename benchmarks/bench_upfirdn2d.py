"""upfirdn2d at StyleGAN2's shapes (batch 4), beside a padded depthwise convolution, which is PyTorch's best."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import setup_filter, upfirdn2d

SHORT, LONG = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, 4, 6, 9, 12, 12, 9, 6, 4, 2, 1])


def plain(f, up, down, padding, gain):
    """The same in PyTorch: a depthwise convolution of the padded image, transposed where it upsamples."""
    taps = f if f.ndim == 2 else torch.outer(f, f)
    size, (p0, p1) = taps.shape[0], padding

    def run(x):
        channels = x.shape[1]
        kernel = (taps * gain).to(x)
        if up == 1:
            weight = kernel.flip(0, 1).expand(channels, 1, size, size)
            return F.conv2d(F.pad(x, (p0, p1, p0, p1)), weight, stride=down, groups=channels)
        weight = kernel.expand(channels, 1, size, size)
        y = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        low, high = size - 1 - p0, size - 1 - p1 - (up - 1)  # what the full result has beyond the asked-for
        return F.pad(y, (-low, -high, -low, -high))

    return run


def case(label, shape, f, up=1, down=1, padding=(0, 0), gain=1):
    def run(x):
        return upfirdn2d(x, f, up=up, down=down, padding=[*padding, *padding], gain=gain)

    def make():
        torch.manual_seed(0)
        return [torch.randn(shape)]

    torchs = plain(f, up, down, padding, gain)
    out = run(make()[0]).numel()
    torch.testing.assert_close(torchs(make()[0]), run(make()[0]), rtol=1e-4, atol=1e-4)
    providers = {
        "eager": torchs,
        "compiled": compiled(torchs),
        "cpu": ours("cpu", run),
        "triton": ours("triton", run),
    }
    return Case(f"upfirdn2d {label} {list(shape)}", make, providers, bytes=4 * (math.prod(shape) + out))


CASES = [
    case("blur 4 taps", (4, 64, 128, 128), SHORT, padding=(2, 1)),
    case("up 2 4 taps", (4, 64, 128, 128), SHORT, up=2, padding=(2, 1), gain=4),
    case("down 2 4 taps", (4, 64, 128, 128), SHORT, down=2, padding=(1, 1)),
    case("up 2 12 taps", (2, 32, 128, 128), LONG, up=2, padding=(6, 5), gain=4),
    case("down 2 12 taps", (2, 32, 128, 128), LONG, down=2, padding=(5, 5)),
    case("blur 4 taps", (4, 512, 9, 9), SHORT, padding=(1, 1)),
    case("up 2 4 taps", (4, 512, 8, 8), SHORT, up=2, padding=(2, 1), gain=4),
    case("up 2 4 taps", (4, 3, 64, 64), SHORT, up=2, padding=(2, 1), gain=4),
]


@parametrize(CASES)
def test_upfirdn2d(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
