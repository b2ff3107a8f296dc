"""State dicts of the widespread StyleGAN2 port: ``torch.save`` of ``{"g_ema": ..., "g": ..., "d": ...}``.

What is known of them is the names and shapes in their state dicts: ``style.N``, ``input.input``, ``conv1``,
``to_rgb1``, ``convs.N``, ``to_rgbs.N``, ``noises.noise_N``, and ``latent_avg`` beside them. Assumed, as no name
says it: the published skip generator and residual discriminator, a mapping at a learning rate of 0.01, no clamp, and
weights of upsampling layers as `torch.nn.functional.conv_transpose2d` takes them.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from gankernels._saved_data import Strided, check_distinct
from gankernels.errors import CheckpointError

NETWORKS = {"g_ema": "average", "g": "generator", "d": "discriminator"}
_LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}
_INDEX = re.compile("[0-9]{1,2}")
_BLUR = re.compile(r"(^|\.)(kernel|blur\.kernel|upsample\.kernel)$")


def is_port(content: Any) -> bool:
    """Whether this is such a file, or its g_ema alone."""
    return isinstance(content, dict) and ("g_ema" in content or "conv1.conv.modulation.weight" in content)


def _generator_name(name: str) -> str | None:
    """Our name of a port's generator tensor; None where we have nothing for it."""
    head, _, rest = name.partition(".")
    if name == "input.input":
        return "synthesis.b4.const"
    if head == "style":
        index, _, kind = rest.partition(".")
        return f"mapping.fc{int(index) - 1}.{kind}" if _INDEX.fullmatch(index) and kind in ("weight", "bias") else None
    if head == "noises":
        index = rest.removeprefix("noise_")
        if not _INDEX.fullmatch(index):
            return None
        layer = int(index)
        return f"synthesis.b{4 << (layer + 1) // 2}.{_conv(layer)}.noise_const"
    if head in ("conv1", "to_rgb1"):
        ours, resolution = ("conv1" if head == "conv1" else "torgb"), 4
    elif head in ("convs", "to_rgbs"):
        index, _, rest = rest.partition(".")
        if not _INDEX.fullmatch(index):
            return None
        layer = int(index)
        resolution = 8 << (layer // 2 if head == "convs" else layer)
        ours = _conv(layer + 1) if head == "convs" else "torgb"
    else:
        return None
    return f"synthesis.b{resolution}.{ours}.{_LAYER[rest]}" if rest in _LAYER else None


def _conv(layer: int) -> str:
    """Of layers in order, the first at 4x4: each resolution after has an upsampling conv0, then conv1."""
    return "conv1" if layer % 2 == 0 else "conv0"


_BLOCK = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.1.weight": "skip.weight",
}
_LAST = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}


def _discriminator_name(name: str, blocks: int) -> str | None:
    if name in _LAST:
        return _LAST[name]
    top = 4 << blocks
    if name in ("convs.0.0.weight", "convs.0.1.bias"):
        return f"b{top}.fromrgb.{name.rpartition('.')[2]}"
    found = re.fullmatch(r"convs\.(\d{1,2})\.(.+)", name)
    if not found or found[2] not in _BLOCK or not 1 <= int(found[1]) <= blocks:
        return None
    return f"b{top >> (int(found[1]) - 1)}.{_BLOCK[found[2]]}"


def _checked(state: Any, which: str) -> dict[str, Strided]:
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{which} is no state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Strided):
            raise CheckpointError(f"{which} is no state dict: {str(name)[:60]} is a {type(value).__name__}")
    return state


def _renamed(state: dict[str, Strided], which: str, rename) -> dict[str, Strided]:
    found = {}
    for name, value in state.items():
        if _BLUR.search(name):
            _check_filter(name, value, which)
            continue
        ours = rename(name)
        if ours is None:
            raise CheckpointError(f"{which} holds {name[:60]}, which the StyleGAN2 port that is read does not have")
        found[ours] = value
    return found


def _check_filter(name: str, value: Strided, which: str) -> None:
    """Raise CheckpointError unless it is the filter 1-3-3-1, which our networks have as a constant."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    wanted = torch.outer(taps, taps) / 64
    given = value.tensor().float() if value.shape == (4, 4) else None
    if given is None or not any(torch.allclose(given, gain * wanted) for gain in (1, 4)):
        raise CheckpointError(f"{which} has another filter {name[:60]} than 1-3-3-1, which our networks have alone")


def _base(channels: dict[int, int]) -> dict[str, int]:
    """channel_base and channel_max of the channels at each resolution."""
    return {"channel_base": max(c * r for r, c in channels.items()), "channel_max": max(channels.values())}


def _shape(tensors: dict[str, Strided], name: str, which: str, dims: int) -> tuple[int, ...]:
    if name not in tensors or len(tensors[name].shape) != dims:
        raise CheckpointError(f"{which} lacks what becomes {name}, or has it in another shape; it belongs elsewhere")
    return tensors[name].shape


def _channels(tensors: dict[str, Strided], form: str, which: str, dims: int, at: int) -> dict[int, int]:
    sizes, r = {}, 4
    while form.format(r) in tensors and r <= 1 << 14:
        sizes[r] = _shape(tensors, form.format(r), which, dims)[at]
        r *= 2
    if len(sizes) < 2:
        raise CheckpointError(f"{which} has no two resolutions of layers; it belongs to another model")
    return sizes


_PLAIN = {"num_fp16_res": 0, "conv_clamp": None}


def networks(content: dict[str, Any]) -> tuple[str, dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]]:
    """Of such a file: "stylegan2", and {our name: (constructor's arguments, tensors under our names)}.

    Raises: CheckpointError where it has other tensors than those.
    """
    parts = {name: content[name] for name in NETWORKS if name in content} or {"g_ema": content}
    if "g_ema" not in parts:
        raise CheckpointError("it has no g_ema")
    parts = {which: _checked(state, which) for which, state in parts.items()}
    check_distinct(value for state in parts.values() for value in state.values())
    latent_average = content.get("latent_avg", parts["g_ema"].get("latent_avg"))
    found = {}
    for which, state in parts.items():
        state = {k: v for k, v in state.items() if k != "latent_avg"}
        found[NETWORKS[which]] = (_discriminator if which == "d" else _generator)(state, which, latent_average)
    return "stylegan2", found


def _generator(state: dict[str, Strided], which: str, latent_average: Any):
    tensors = _renamed(state, which, _generator_name)
    w_dim, z_dim = _shape(tensors, "mapping.fc0.weight", which, 2)
    depth = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in tensors)
    channels = _channels(tensors, "synthesis.b{}.conv1.weight", which, 5, 1)
    image = _shape(tensors, "synthesis.b4.torgb.bias", which, 4)[1]
    config = {
        **{"z_dim": z_dim, "w_dim": w_dim, "img_resolution": max(channels), "img_channels": image},
        **{"mapping_kwargs": {"num_layers": depth}, **_base(channels), **_PLAIN},
    }
    if isinstance(latent_average, Strided):
        tensors["mapping.w_avg"] = latent_average
    return config, {name: _squeezed(name, value) for name, value in tensors.items()}


def _squeezed(name: str, value: Strided) -> torch.Tensor:
    """Without the leading and trailing 1s that the port's tensors have."""
    tensor = value.tensor()
    if name.endswith("const") or (name.startswith("synthesis") and name.endswith(".weight") and tensor.ndim == 5):
        return tensor[0] if name.endswith("b4.const") or tensor.ndim == 5 else tensor[0, 0]
    if name.endswith("noise_strength"):
        return tensor.reshape(())
    return tensor.flatten() if name.endswith((".torgb.bias", "w_avg")) else tensor


def _discriminator(state: dict[str, Strided], which: str, _: Any):
    blocks = sum(re.fullmatch(r"convs\.\d{1,2}\.skip\.1\.weight", name) is not None for name in state)
    tensors = _renamed(state, which, lambda name: _discriminator_name(name, blocks))
    image = _shape(tensors, f"b{4 << blocks}.fromrgb.weight", which, 4)[1]
    channels = {4: _shape(tensors, "b4.conv.weight", which, 4)[0]}
    for r in (8 << i for i in range(blocks)):
        channels[r] = _shape(tensors, f"b{r}.conv0.weight", which, 4)[0]
    config = {"img_resolution": 4 << blocks, "img_channels": image, **_base(channels), **_PLAIN}
    return config, {name: value.tensor() for name, value in tensors.items()}
