"""AugmentPipe at its default preset, on batches of 64x64 and 128x128 images, beside its geometry out of plain PyTorch.

The plain one does what the pipe's geometry does and no more: it is given the maps and the margin.
"""

import torch
import torch.nn.functional as F
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.nn import AugmentPipe, sample_keys
from gankernels.nn import _augment_maps as maps
from gankernels.nn._augment_draws import keyed_uniform
from gankernels.nn.augment import recolour, reflect


class Plain:
    """bgc of PyTorch's own operators: sym6 as grouped convolutions, affine_grid and grid_sample."""

    def __init__(self, pipe: AugmentPipe, keys: torch.Tensor, margin: int) -> None:
        self.pipe, self.keys, self.margin = pipe, keys, margin

    def __call__(self, x):
        n, c, h, w = x.shape
        draws = maps.Draws(
            keyed_uniform(self.keys.to(x.device), maps.DRAWS, 0, x.dtype),
            self.pipe.probabilities().to(x.device, x.dtype),
        )
        theta, taken = maps.affine(draws, self.pipe.config, (h, w))
        f = self.pipe.resample_filter.to(x.device, x.dtype)
        across, down = (f.view(1, 1, *shape).expand(c, 1, *shape) for shape in ((1, -1), (-1, 1)))
        y = reflect(x, self.margin, self.margin)
        y = F.conv_transpose2d(2 * y, across, stride=(1, 2), padding=(0, 5), groups=c)
        y = F.conv_transpose2d(2 * y, down, stride=(2, 1), padding=(5, 0), groups=c)
        out = (2 * h + 10, 2 * w + 10)
        scale = theta.new_tensor([[out[1] / y.shape[3], out[0] / y.shape[3], 4 / y.shape[3]]] * 2)
        y = F.grid_sample(y, F.affine_grid(theta * scale, [n, c, *out], False), align_corners=False)
        y = F.conv2d(F.conv2d(y, across, stride=(1, 2), groups=c), down, stride=(2, 1), groups=c)
        x = torch.where(taken[:, None, None, None], y, x)
        return recolour(x, *maps.colour(draws, self.pipe.config, c))


def case(n, size, p):
    keys, margin = sample_keys(0, torch.arange(n)), size // 2

    def make():
        torch.manual_seed(0)
        return [torch.randn(n, 3, size, size)]

    pipes = {}

    def fused(x):
        if x.device not in pipes:
            pipes[x.device] = AugmentPipe(p, "bgc", margin).to(x.device)
        return pipes[x.device](x, keys=keys.to(x.device))

    plain = Plain(AugmentPipe(p, "bgc", margin), keys, margin)
    providers = {
        "eager": plain,
        "compiled": compiled(plain),
        "cpu": ours("cpu", fused),
        "cuda": ours("cuda", fused),
        "triton": ours("triton", fused),
    }
    return Case(f"augment bgc p={p} {[n, 3, size, size]}", make, providers, bytes=2 * n * 3 * size * size * 4)


CASES = [case(16, 64, 0.6), case(4, 128, 0.6)]
for _case in CASES:
    _cannot = _case.cannot

    def _reason(provider, device, order, cannot=_cannot):
        if provider in ("eager", "compiled") and order == "second order":
            return "PyTorch has no second derivative of grid_sample"
        return cannot(provider, device, order)

    _case.cannot = _reason


@parametrize(CASES)
def test_augment(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
