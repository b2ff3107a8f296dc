"""filtered_lrelu at StyleGAN3's shapes, beside the fastest composition of PyTorch's own operators that was found:
depthwise convolutions with the whole filter (axis by axis, or as polyphase and pixel_shuffle, was slower).

The work that cannot be avoided is the polyphase sums along each axis: `flops` counts them, two a tap.
"""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import filtered_lrelu, setup_filter

GAIN, SLOPE = 2**0.5, 0.2


def taps(n):
    return setup_filter(torch.signal.windows.kaiser(n, beta=5.0, sym=True), separable=True)


def plain(fu, fd, up, down, padding, clamp, layout):
    """The same in PyTorch; `layout` is what the convolutions work in, the result comes back in that of x."""
    p0, p1 = padding

    def run(x, b):
        c = x.shape[1]
        ku, kd = (torch.outer(f, f).expand(c, 1, -1, -1) for f in (fu * up, fd.flip(0)))
        low, high = p0 - len(fu) + 1, p1 + up - len(fu)  # what the asked-for has beyond the full result
        y = (x + b.view(1, -1, 1, 1)).contiguous(memory_format=layout)
        y = F.pad(F.conv_transpose2d(y, ku, stride=up, groups=c), (low, high, low, high))
        y = F.leaky_relu(y, SLOPE) * GAIN
        if clamp is not None:
            y = y.clamp(-clamp, clamp)
        return F.conv2d(y, kd, stride=down, groups=c).contiguous()

    return run


def flops(shape, ku, kd, up, down, padding):
    """Of the polyphase form: across before up and down after down, so that each axis is filtered at its lower rate."""
    n, c, h, w = shape
    uh, uw = (size * up + sum(padding) - ku + 1 for size in (h, w))
    oh, ow = ((size - kd + down) // down for size in (uh, uw))
    sums = (h * uw + uh * uw) * ku / up + (oh * uw + oh * ow) * kd
    return int(2 * n * c * sums)


def case(label, shape, ku, kd, up, down, clamp=None):
    total = ku + kd - 1 - down  # for an output of in * up / down samples
    padding = (total - total // 2, total // 2)
    fu, fd = taps(ku), taps(kd)
    kwargs = dict(up=up, down=down, padding=[*padding, *padding], gain=GAIN, slope=SLOPE, clamp=clamp)

    def run(x, b):
        return filtered_lrelu(x, fu, fd, b, **kwargs)

    def make():
        torch.manual_seed(0)
        return [torch.randn(shape), torch.randn(shape[1])]

    torchs = plain(fu, fd, up, down, padding, clamp, torch.contiguous_format)
    out = run(*make())
    torch.testing.assert_close(torchs(*make()), out, rtol=1e-4, atol=1e-4)
    last = plain(fu, fd, up, down, padding, clamp, torch.channels_last)
    providers = {
        "eager": torchs,
        "eager channels_last": last,
        "compiled": compiled(torchs),
        "compiled channels_last": compiled(last),
        "cpu": ours("cpu", run),
    }
    return Case(
        f"filtered_lrelu {label} {list(shape)}",
        make,
        providers,
        bytes=4 * (make()[0].numel() + out.numel()),
        flops=flops(shape, ku, kd, up, down, padding),
    )


CASES = [
    case("up 2 down 2 12 taps", (2, 32, 128, 128), 12, 12, 2, 2),
    case("up 2 down 2 12 taps clamp", (2, 128, 52, 52), 12, 12, 2, 2, clamp=256.0),
    case("up 4 down 2 24, 12 taps", (2, 128, 36, 36), 24, 12, 4, 2, clamp=256.0),
    case("up 4 down 4 24 taps", (2, 32, 84, 84), 24, 24, 4, 4),
]


@parametrize(CASES)
def test_filtered_lrelu(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
