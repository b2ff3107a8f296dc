"""Numbers of whole networks, kept in tests/golden_networks.npz: `python tests/golden_networks.py` writes them anew.

They were written in float64 by the reference backend once it agreed with the published networks' numbers. Parameters
are drawn by NumPy, name by name, so that no initialisation can move them; of each gradient one number is kept.
"""

from __future__ import annotations

import pathlib
import zlib

import numpy as np
import torch
from gankernels.models import progan, stylegan, stylegan2, stylegan3

import gankernels
from gankernels import losses

FILE = pathlib.Path(__file__).parent / "golden_networks.npz"

_SMALL = {"channel_base": 128, "channel_max": 8}
_G, _D = {"z_dim": 6, **_SMALL}, _SMALL
_W = {"w_dim": 6, "mapping_kwargs": {"num_layers": 2}}
_CLASSES = {"c_dim": 3, "img_resolution": 16, "img_channels": 2}
_CONST = {"noise_mode": "const"}

CASES = {
    "progan": (progan, _G | {"img_resolution": 16}, _D | {"img_resolution": 16}, {}, {}),
    "progan_cond": (progan, _G | _CLASSES, _D | _CLASSES, {"resolution": 8, "alpha": 0.3}, {"alpha": 0.3}),
    "stylegan": (stylegan, _G | _W | {"img_resolution": 16}, _D | {"img_resolution": 16}, _CONST, {}),
    "stylegan_cond": (
        stylegan,
        _G | _W | _CLASSES,
        _D | _CLASSES,
        {"resolution": 8, "alpha": 0.3, "truncation_psi": 0.7, "truncation_cutoff": 2, **_CONST},
        {"alpha": 0.3},
    ),
    "stylegan2": (
        stylegan2,
        _G | _W | {"img_resolution": [16, 24]},
        _D | {"img_resolution": [16, 24], "architecture": "skip"},
        _CONST,
        {},
    ),
    "stylegan2_cond": (
        stylegan2,
        _G | _W | _CLASSES | {"architecture": "resnet"},
        _D | _CLASSES | {"mapping_kwargs": {"num_layers": 2}},
        {"truncation_psi": 0.7, "truncation_cutoff": 2, **_CONST},
        {},
    ),
    "stylegan2_orig": (
        stylegan2,
        _G | _W | {"img_resolution": 8, "architecture": "orig"},
        _D | {"img_resolution": 8, "architecture": "orig", "mbstd_num_channels": 0},
        {"noise_mode": "none"},
        {},
    ),
    "stylegan3_t": (stylegan3, _G | _W | _CLASSES | {"num_layers": 4}, _D | _CLASSES, {"truncation_psi": 0.7}, {}),
    "stylegan3_r": (
        stylegan3,
        _G | _W | {"img_resolution": [16, 18], "num_layers": 4, "conv_kernel": 1, "use_radial_filters": True},
        _D | {"img_resolution": [32, 40]},
        {},
        {},
    ),
}


def draw(name: str, *shape: int) -> torch.Tensor:
    """N(0, 1) in float64, known from the name."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape))


def filled(net: torch.nn.Module) -> torch.nn.Module:
    """`net` in float64 and eval mode with drawn numbers; what starts at 0 or 1 moves a little, filters stay."""
    net.double().eval()
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if name.endswith("filter"):
                continue
            drawn = draw(name, *t.shape).reshape(t.shape)
            part = 0.1 if "strength" in name or "w_avg" in name or "bias" in name or "transform" in name else 1.0
            if "magnitude_ema" in name:
                t.copy_(drawn.square() + 0.5)
            elif name.startswith("mapping.fc"):
                t.copy_(drawn * part * 100)  # their rate of 0.01 multiplies
            else:
                t.copy_(drawn * part + (1 if "affine.bias" in name else 0))
        for module in net.modules():
            if isinstance(module, stylegan3.SynthesisInput):
                module.transform.add_(torch.eye(3, dtype=torch.float64))
            for key, buffer in module._buffers.items():
                if buffer is not None and key.endswith("filter"):
                    module._buffers[key] = buffer.float()  # operators take float32 filters
    return net


def _gradients(net: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
    """[parameters]: of each gradient of `value` its product with numbers drawn by the parameter's name."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    pairs = zip(names, grads, strict=True)
    return torch.stack([(g * draw("gradient " + name, *g.shape).reshape(g.shape)).sum() for name, g in pairs])


def numbers(case: str) -> dict[str, np.ndarray]:
    """Image, logits, R1, path lengths and gradients of a case on the backend in force."""
    module, g_config, d_config, g_call, d_call = CASES[case]
    g, d = filled(module.Generator(**g_config)), filled(module.Discriminator(**d_config))
    n, found = 2, {}
    z, c = draw("z", n, g.z_dim), torch.eye(3, dtype=torch.float64)[[0, 2]] if g.c_dim else None
    image = g(z, c, **g_call)
    found["image"] = image
    found["image_gradients"] = _gradients(g, (image * draw("cotangent", *image.shape)).sum())
    if module is stylegan2:
        synthesis = {k: v for k, v in g_call.items() if not k.startswith("truncation")}
        noise, mean = draw("noise", *image.shape), torch.zeros(1, dtype=torch.float64)
        penalty = losses.path_length(lambda ws: g.synthesis(ws, **synthesis), g.mapping(z, c), mean, noise=noise)
        found |= {"path_length": penalty, "path_length_gradients": _gradients(g, penalty)}
    real = draw("real", n, d.channels, *(image.shape[2:] if "resolution" in g_call else d.size))
    found["logits"] = d(real, c, **d_call)
    penalty = losses.r1_penalty(lambda x: d(x, c, **d_call), real, 2.0)
    found |= {"r1": penalty, "r1_gradients": _gradients(d, penalty)}
    return {f"{case}/{k}": v.detach().numpy() for k, v in found.items()}


def main() -> None:
    with gankernels.backend("reference"):
        kept = {k: v for case in CASES for k, v in numbers(case).items()}
    np.savez_compressed(FILE, **kept)
    print(f"{FILE}: {len(CASES)} cases, {len(kept)} arrays, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
