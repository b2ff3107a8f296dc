"""Keyed draws: the augmentation's noise, NoiseInjection's at 128x128, and an augmentation's few numbers, batch 32.

"eager" makes the same numbers of PyTorch's integers; "unkeyed" is torch.randn or torch.rand, which cannot make them.
"""

import torch
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.nn import _augment_maps, sample_keys
from gankernels.nn._augment_draws import keyed_normal, keyed_uniform, reference


class Draws(Case):
    def cannot(self, provider, device, order):
        if order != "forward":
            return "draws have no derivative"
        return super().cannot(provider, device, order)


def case(n, count, gaussian, dtype=torch.float32):
    draw, unkeyed = (keyed_normal, torch.randn) if gaussian else (keyed_uniform, torch.rand)

    def plain(keys):
        return reference(keys, count, 1, dtype, gaussian)

    providers = {
        "eager": plain,
        "unkeyed": lambda keys: unkeyed(n, count, dtype=dtype, device=keys.device),
        "compiled": compiled(plain),
        "cpu": ours("cpu", lambda keys: draw(keys, count, 1, dtype)),
    }
    kind = "normal" if gaussian else "uniform"
    label = f"keyed_draws {kind} {str(dtype)[6:]} {[n, count]}"
    return Draws(label, lambda: [sample_keys(0, torch.arange(n))], providers, bytes=dtype.itemsize * n * count)


CASES = [case(32, 3 * 128 * 128, True), case(32, 128 * 128, True), case(32, 128 * 128, False)]
CASES += [case(32, 128 * 128, True, torch.float64), case(32, _augment_maps.DRAWS, False)]


@parametrize(CASES)
def test_keyed_draws(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
