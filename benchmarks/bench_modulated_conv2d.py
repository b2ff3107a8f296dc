"""modulated_conv2d at the shapes of StyleGAN2's layers at batch 4, bare and as a whole layer."""

import torch
import torch.nn.functional as F
from bench_conv2d_resample import FILTER, LAYERS, blur
from bench_tools import Case, bench, compiled, ours, parametrize

from gankernels.ops import modulated_conv2d, modulated_conv2d_act


def plain_modulated(x, weight, styles, up=1):
    """The careful composition: image and result are scaled, the weight is shared by all samples."""
    demod = (styles.square() @ weight.square().sum([2, 3]).t() + 1e-8).rsqrt()
    x = x * styles[:, :, None, None]
    if up == 1:
        y = F.conv2d(x, weight, padding=1)
    else:
        y = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 4, 1)
    return y * demod[:, :, None, None]


def grouped(x, weight, styles, up=1):
    """A weight for each sample, as one convolution in groups."""
    n, i = x.shape[:2]
    w = weight * styles[:, None, :, None, None]
    w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * i, *x.shape[2:])
    if up == 1:
        y = F.conv2d(x, w.flatten(0, 1), padding=1, groups=n)
    else:
        y = blur(F.conv_transpose2d(x, w.transpose(1, 2).flatten(0, 1), stride=2, groups=n), 4, 1)
    return y.unflatten(1, (n, -1)).squeeze(0)


def modulated_case(c, size, up, layer):
    out = size * up

    def make():
        torch.manual_seed(0)
        tensors = [torch.randn(4, c, size, size), torch.randn(c, c, 3, 3), torch.randn(4, c) / 4 + 1]
        return [*tensors, torch.randn(c), torch.randn(out, out)] if layer else tensors

    def run(x, w, s, *rest):
        kwargs = {"up": up, "padding": 1, "resample_filter": FILTER.to(x.device), "flip_weight": up == 1}
        if layer:
            return modulated_conv2d_act(x, w, s, rest[0], noise=rest[1], act="lrelu", clamp=256, **kwargs)
        return modulated_conv2d(x, w, s, **kwargs)

    def plain(f):
        def whole(x, w, s, *rest):
            y = f(x, w, s, up)
            if not layer:
                return y
            y = F.leaky_relu(y + rest[1] + rest[0][:, None, None], 0.2) * 2**0.5
            return y.clamp(-256, 256)

        return whole

    label = f"modulated_conv2d{'_act' if layer else ''} [4,{c},{size},{size}] up {up}"
    providers = {
        "eager": plain(plain_modulated),
        "compiled": compiled(plain(plain_modulated)),
        "grouped": plain(grouped),
        "reference": ours("reference", run),
        "cpu": ours("cpu", run),
        "triton": ours("triton", run),
    }
    moved = 4 * (4 * c * (size**2 + out**2) + c * c * 9)
    return Case(label, make, providers, moved, 2 * 4 * c * c * 9 * size**2)


CASES = [modulated_case(c, size, up, layer) for layer in (False, True) for up in (1, 2) for c, size in LAYERS]


@parametrize(CASES)
def test_modulated_conv2d(benchmark, case, provider, order):
    bench(benchmark, case, provider, order)
