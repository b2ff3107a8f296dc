"""Whole networks composed of gankernels' operators, one system a file; installed as ``gankernels.models``."""

if __name__ != "gankernels.models":
    raise ImportError("this folder is installed as gankernels.models: import gankernels.models")

import inspect

from gankernels.models import dcgan, gan
from gankernels.models._network import Discriminator, Generator

MODELS: dict[str, tuple[type[Generator], type[Discriminator]]] = {
    "gan": (gan.MLPGenerator, gan.MLPDiscriminator),
    "gan-maxout": (gan.RectifierGenerator, gan.MaxoutDiscriminator),
    "gan-conv": (gan.DeconvGenerator, gan.ConvMaxoutDiscriminator),
    "dcgan": (dcgan.DCGANGenerator, dcgan.DCGANDiscriminator),
}

__all__ = ["MODELS", "Discriminator", "Generator", "build"]


def build(name: str, *, resolution: int, channels: int, **options) -> tuple[Generator, Discriminator]:
    """The generator and discriminator called `name`, for images [N, channels, resolution, resolution].

    An option goes to each of the two whose constructor takes it; ``g_`` or ``d_`` before its name picks one of them
    (``width=64, d_width=32``). ``type(net)(**net.config)`` builds either again.

    Raises: ValueError for an unknown name, or an option that the model does not take.
    """
    if name not in MODELS:
        raise ValueError(f"build: unknown model {name!r}, expected one of {', '.join(MODELS)}")
    unused, nets = set(options), []
    for prefix, cls in zip(("g_", "d_"), MODELS[name], strict=True):
        known = inspect.signature(cls).parameters.keys() - {"resolution", "channels"}
        both = {option: value for option, value in options.items() if option in known}
        own = {o.removeprefix(prefix): v for o, v in options.items() if o.removeprefix(prefix) in known - {o}}
        unused -= both.keys() | {prefix + option for option in own}
        nets.append(cls(resolution=resolution, channels=channels, **{**both, **own}))
    if unused:
        raise ValueError(f"build: {name} has no option {min(unused)!r}, expected some of {', '.join(_options(name))}")
    return nets[0], nets[1]


def _options(name: str) -> list[str]:
    return sorted(
        set().union(*(inspect.signature(cls).parameters for cls in MODELS[name])) - {"resolution", "channels"}
    )
