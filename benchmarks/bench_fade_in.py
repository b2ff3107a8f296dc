"""fade_in as ProGAN's generator (to RGB, enlarged twice) and discriminator (nothing enlarged) fade, batch 4."""

import math

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, parametrize, providers

from gankernels.ops import fade_in


def plain(image, lower, weight=None, bias=None):
    if weight is not None:
        lower = F.conv2d(lower, weight, bias)
    if lower.shape != image.shape:
        lower = F.interpolate(lower, scale_factor=2)
    return torch.lerp(lower, image, 0.3)


def case(*shapes, dtype=torch.float32, last=False):
    def make():
        torch.manual_seed(0)
        layout = torch.channels_last if last else torch.contiguous_format
        images = [torch.randn(shape).to(dtype, memory_format=layout) for shape in shapes[:2]]
        return [*images, *(torch.randn(shape, dtype=dtype) for shape in shapes[2:])]

    def run(image, lower, weight=None, bias=None):
        return fade_in(image, lower, 0.3, weight, bias)

    label = f"fade_in {str(dtype)[6:]} {'channels_last' if last else 'contiguous'} {list(shapes[0])}"
    image, lower = (math.prod(shape) for shape in shapes[:2])
    return Case(label, make, providers(plain, run), bytes=dtype.itemsize * (2 * image + lower))


RGB = (4, 3, 512, 512), (4, 3, 256, 256)
CASES = [case(*RGB), case(*RGB, dtype=torch.bfloat16), case((4, 32, 256, 256), (4, 32, 128, 128), last=True)]
CASES += [case((4, 64, 128, 128), (4, 64, 128, 128))]
CASES += [case((4, 3, 256, 256), (4, 128, 128, 128), (3, 128, 1, 1), (3,))]


@parametrize(CASES)
def test_fade_in(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
