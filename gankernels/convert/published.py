"""The published StyleGAN2 and StyleGAN3 pickles: dicts of modules, each with its state and its constructor's arguments.

A module lies there as a call of ``torch_utils.persistence._reconstruct_persistent_obj`` with a dict: type "class",
version, class_name, module_src (the text of a Python module, which stays a text) and state (the module's attributes).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gankernels._pickles import SCALARS, Calls, Record, shown
from gankernels._saved import storage_from_bytes
from gankernels._saved_data import DATA, Strided, record
from gankernels.errors import CheckpointError, UnsafePickle
from gankernels.models import stylegan2, stylegan3

MODULES = {"G_ema": "average", "G": "generator", "D": "discriminator"}
"""What the pickle calls its networks, and what our files call them."""
_MOST_MODULES, _DEEPEST, _MOST_TENSORS, _LONGEST, _MOST_SETTINGS = 10_000, 32, 10_000, 1000, 10_000


@dataclass(frozen=True)
class Module:
    """A module as it lies in the pickle."""

    class_name: str
    state: dict[str, Any]

    def part(self, kind: str) -> dict[str, Any]:
        """`_parameters`, `_buffers` or `_modules`."""
        found = self.state.get(kind, {})
        if not isinstance(found, dict):
            raise UnsafePickle(f"{self.class_name} has {kind} that are a {type(found).__name__}")
        return found


def _module(about: Any = None, *_: Any) -> Module:
    if not isinstance(about, dict) or about.get("type") != "class" or not isinstance(about.get("state"), dict):
        raise UnsafePickle("it has a module that is not described by type 'class', a class_name and a state")
    return Module(shown(about.get("class_name")), about["state"])


PUBLISHED: Calls = {
    **DATA,
    "torch.storage._load_from_bytes": storage_from_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": _module,
    "dnnlib.util.EasyDict": record,
    "dnnlib.EasyDict": record,
}
"""All names that such a pickle may hold."""


def state_dict(module: Module) -> dict[str, Strided]:
    """Parameters and persistent buffers of a module and what it contains, under the names of a state dict."""
    found: dict[str, Strided] = {}
    queue, seen, entries = [("", module, 0)], 0, 0
    while queue:
        prefix, one, depth = queue.pop()
        seen += 1
        if seen > _MOST_MODULES or depth > _DEEPEST:
            raise UnsafePickle(f"it nests more than {_DEEPEST} modules deep, or {_MOST_MODULES} in all")
        if len(prefix) > _LONGEST or len(found) > _MOST_TENSORS:
            raise UnsafePickle(f"it has more than {_MOST_TENSORS} tensors, or names longer than {_LONGEST}")
        passing = one.state.get("_non_persistent_buffers_set") or ()
        if not isinstance(passing, set | frozenset | list | tuple):
            raise UnsafePickle(f"{prefix}_non_persistent_buffers_set is a {type(passing).__name__}")
        entries += len(passing) + sum(len(one.part(kind)) for kind in ("_parameters", "_buffers", "_modules"))
        if entries > 10 * _MOST_TENSORS:
            raise UnsafePickle(f"it has more than {10 * _MOST_TENSORS} entries in its modules")
        passing = {name for name in passing if isinstance(name, SCALARS)}
        for name, value in {**one.part("_parameters"), **one.part("_buffers")}.items():
            if value is None or name in passing:
                continue
            if not isinstance(value, Strided):
                raise UnsafePickle(f"{prefix}{name} is a {type(value).__name__}, not a tensor")
            if not isinstance(name, str) or len(name) > _LONGEST:
                raise UnsafePickle(f"{prefix} has a tensor whose name is no text, or longer than {_LONGEST}")
            found[f"{prefix}{name}"] = value
        for name, child in one.part("_modules").items():
            if not isinstance(name, str) or len(name) > _LONGEST:
                raise UnsafePickle(f"{prefix} has a module whose name is no text, or longer than {_LONGEST}")
            if isinstance(child, Module):
                queue.append((f"{prefix}{name}.", child, depth + 1))
            elif child is not None:
                raise UnsafePickle(f"{prefix}{name} is a {type(child).__name__}, not a module")
    return found


_POSITIONAL = {
    "G": ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    "D": ("c_dim", "img_resolution", "img_channels"),
}
_NESTED = ("synthesis_kwargs", "block_kwargs", "epilogue_kwargs")
_OF_TRAINING = {
    "class_name",
    "freeze_layers",
    "fused_modconv_default",
    "fp16_channels_last",
    "magnitude_ema_beta",
}
"""Arguments that a trained network's results do not depend on."""
_FIXED = {
    "activation": ("lrelu",),
    "resample_filter": ([1, 3, 3, 1],),
    "use_noise": (True,),
    "output_scale": (stylegan3.OUTPUT_SCALE,),
    "margin_size": (stylegan3.MARGIN,),
    "first_cutoff": (stylegan3.FIRST_CUTOFF,),
    "first_stopband": (stylegan3.FIRST_STOPBAND,),
    "last_stopband_rel": (stylegan3.LAST_STOPBAND,),
    "filter_size": (stylegan3.FILTER_SIZE,),
    "lrelu_upsampling": (2,),
}
"""Arguments that our networks have as constants, and the values that they have."""
_ATTRIBUTES = ("conv_clamp", "architecture")
"""Arguments that, where the constructor was not given them, are attributes of the layers."""


def identify(tensors: dict[str, Any]) -> str | None:
    """The family whose generator has tensors of these names."""
    if "synthesis.input.freqs" in tensors:
        return "stylegan3"
    return "stylegan2" if "synthesis.b4.const" in tensors else None


def config_of(module: Module, role: str, cls: type) -> dict[str, Any]:
    """Arguments of our constructor `cls` for a module in the role "G" or "D".

    Raises: CheckpointError for an argument that ours does not have, or has as another constant.
    """
    positional = _settings(module, "_init_args", (list, tuple))
    given = dict(zip(_POSITIONAL[role], positional or (), strict=False))
    given |= _settings(module, "_init_kwargs", (dict,)) or {}
    for nested in _NESTED:
        inner = given.pop(nested, None) or {}
        if not isinstance(inner, dict):
            raise CheckpointError(f"{role} has {nested} that are a {type(inner).__name__}, not a dict")
        given |= inner
    known, config = inspect.signature(cls).parameters, {}
    for name, value in given.items():
        if name in _FIXED and name not in known:
            if value not in _FIXED[name]:
                raise CheckpointError(
                    f"{role} has {name} {repr(value)[:80]}, and our networks have {_FIXED[name][0]!r} alone"
                )
        elif name in known:
            config[name] = value
        elif name not in _OF_TRAINING:
            raise CheckpointError(
                f"{role} was made with {name} = {repr(value)[:80]}, which our {cls.__module__} does not have"
            )
    if isinstance(config.get("mapping_kwargs"), dict):
        config["mapping_kwargs"].pop("class_name", None)
    for name in _ATTRIBUTES:
        if name in known and name not in config:
            found = [one.state[name] for one in _all(module) if name in one.state]
            if found and isinstance(found[0], int | float | str | None):
                config[name] = found[0]
    blocks = [one for one in _all(module) if one.class_name.endswith("Block") and "use_fp16" in one.state]
    if "num_fp16_res" not in config and blocks:
        config["num_fp16_res"] = sum(one.state["use_fp16"] is True for one in blocks)
    return config


def _all(module: Module) -> list[Module]:
    """A module and what it contains; `state_dict` has seen before that this ends."""
    return [module, *(m for one in module.part("_modules").values() if isinstance(one, Module) for m in _all(one))]


def _settings(module: Module, name: str, kinds: tuple[type, ...]) -> Any:
    found = module.state.get(name)
    if found is not None and not isinstance(found, kinds):
        raise CheckpointError(f"{module.class_name} has {name} that are a {type(found).__name__}")
    return _plain(found, name, itertools.count())


def _plain(value: Any, name: str, seen: Iterator[int], depth: int = 0) -> Any:
    """Settings as JSON carries them; raises UnsafePickle for anything else. `seen` counts all there are, since what
    lies there once can be referred to many times."""
    if depth > 8 or next(seen) > _MOST_SETTINGS:
        raise UnsafePickle(f"{name} is nested more than 8 deep, or has more than {_MOST_SETTINGS} entries")
    if isinstance(value, dict | Record) and all(isinstance(key, str) for key in value):
        return {key: _plain(one, name, seen, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name, seen, depth + 1) for one in value]
    if isinstance(value, str) and len(value) > _LONGEST:
        raise UnsafePickle(f"{name} holds a text of more than {_LONGEST} characters")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnsafePickle(f"{name} holds a {type(value).__name__}")


FAMILIES = {
    "stylegan2": (stylegan2.Generator, stylegan2.Discriminator),
    "stylegan3": (stylegan3.Generator, stylegan3.Discriminator),
}


def networks(content: Any) -> tuple[str, dict[str, tuple[dict[str, Any], dict[str, Strided]]]]:
    """Of a published pickle: the family, and {our name: (constructor's arguments, state dict)}.

    Raises: CheckpointError where it holds no network that ours can be.
    """
    if isinstance(content, Module):
        content = {"G_ema": content}
    if not isinstance(content, dict):
        raise CheckpointError(f"it holds a {type(content).__name__}, not a dict with G, D and G_ema")
    modules = {name: content[name] for name in MODULES if isinstance(content.get(name), Module)}
    if "G_ema" not in modules:
        held = ", ".join(shown(name, 40) for name in list(content)[:10]) or "nothing"
        raise CheckpointError(f"it holds no network G_ema; it holds {held}")
    tensors = {name: state_dict(module) for name, module in modules.items()}
    family = identify(tensors["G_ema"])
    if family is None:
        raise CheckpointError(
            f"G_ema (class {modules['G_ema'].class_name}) is neither StyleGAN2's nor StyleGAN3's generator"
        )
    found = {}
    for name, module in modules.items():
        role = "D" if name == "D" else "G"
        cls = FAMILIES[family][role == "D"]
        found[MODULES[name]] = (config_of(module, role, cls), tensors[name])
    return family, found
