"""Whole networks composed of gankernels' operators, one system a file; installed as ``gankernels.models``."""

if __name__ != "gankernels.models":
    raise ImportError("this folder is installed as gankernels.models: import gankernels.models")

import inspect

from gankernels.models import _rules, dcgan, gan, progan, stylegan, stylegan2, stylegan3  # noqa: F401  (registers)
from gankernels.models._network import Discriminator, Generator

MODELS: dict[str, tuple[type[Generator], type[Discriminator]]] = {
    "gan": (gan.MLPGenerator, gan.MLPDiscriminator),
    "gan-maxout": (gan.RectifierGenerator, gan.MaxoutDiscriminator),
    "gan-conv": (gan.DeconvGenerator, gan.ConvMaxoutDiscriminator),
    "dcgan": (dcgan.DCGANGenerator, dcgan.DCGANDiscriminator),
    "dcgan-autoencoder": (dcgan.DCGANGenerator, dcgan.DCGANAutoencoder),
    "progan": (progan.Generator, progan.Discriminator),
    "stylegan": (stylegan.Generator, stylegan.Discriminator),
    "stylegan2": (stylegan2.Generator, stylegan2.Discriminator),
    "stylegan3": (stylegan3.Generator, stylegan3.Discriminator),
}

__all__ = ["MODELS", "Discriminator", "Generator", "build"]


def build(name: str, *, resolution: int, channels: int, **options) -> tuple[Generator, Discriminator]:
    """The generator and discriminator called `name`, for images [N, channels, resolution, resolution].

    An option goes to each of the two whose constructor takes it; ``g_`` or ``d_`` before its name picks one of them
    (``width=64, d_width=32``). Where a constructor has channel_base and channel_max, they are also called width (the
    channels at the highest resolution) and max_width. ``type(net)(**net.config)`` builds either again.

    Raises: ValueError for an unknown name, or an option that the model does not take.
    """
    if name not in MODELS:
        raise ValueError(f"build: unknown model {name!r}, expected one of {', '.join(MODELS)}")
    unused, nets = set(options), []
    for prefix, cls in zip(("g_", "d_"), MODELS[name], strict=True):
        known = _options(cls)
        both = {option: value for option, value in options.items() if option in known}
        own = {o.removeprefix(prefix): v for o, v in options.items() if o.removeprefix(prefix) in known - {o}}
        unused -= both.keys() | {prefix + option for option in own}
        nets.append(cls(**_arguments(cls, {"resolution": resolution, "channels": channels, **both, **own})))
    if unused:
        known = sorted(set().union(*map(_options, MODELS[name])))
        raise ValueError(f"build: {name} has no option {min(unused)!r}, expected some of {', '.join(known)}")
    return nets[0], nets[1]


_NAMES = {
    "img_resolution": "resolution",
    "img_channels": "channels",
    "channel_base": "width",
    "channel_max": "max_width",
}
"""What a constructor of the published networks calls the things that `build` calls otherwise."""


def _options(cls: type) -> set[str]:
    names = inspect.signature(cls).parameters
    return {*names, *(_NAMES.get(name, name) for name in names)} - {"resolution", "channels", *list(_NAMES)[:2]}


def _arguments(cls: type, options: dict) -> dict:
    names = inspect.signature(cls).parameters
    if "img_resolution" not in names:
        return options
    if "width" in options:
        options = {**options, "width": options["width"] * options["resolution"]}
    return {next((k for k, v in _NAMES.items() if v == name), name): value for name, value in options.items()}
