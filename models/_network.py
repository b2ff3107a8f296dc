"""What every generator and discriminator here has in common: its configuration, its latents, its checks."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from gankernels.nn import Linearization, linearize, linearized

LATENTS = ("normal", "uniform")

Resolution = int | Sequence[int]
"""Side of a square image, or [H, W]."""


class Network(torch.nn.Module):
    """A module that remembers its constructor's arguments: ``type(net)(**net.config)`` builds an equal network.

    `config` holds every argument, defaults included, and only values that JSON can carry.
    """

    config: dict

    def __new__(cls, *args, **kwargs):
        net = super().__new__(cls)
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)  # partial: copy and pickle call this bare
        bound.apply_defaults()
        net.__dict__["config"] = {k: list(v) if isinstance(v, tuple) else v for k, v in bound.arguments.items()}
        return net


class Generator(Network):
    """Base of the generators: latents of `z_dim` numbers to images [N, channels, *size] in [-1, 1]."""

    def __init__(self, resolution: Resolution, channels: int, z_dim: int, latent: str) -> None:
        super().__init__()
        if latent not in LATENTS:
            raise ValueError(f"{type(self).__name__}: latent {latent!r}, expected one of {', '.join(LATENTS)}")
        _check_positive(self, channels=channels, z_dim=z_dim)
        self.size = _checked_size(self, resolution)
        self.resolution, self.channels, self.z_dim, self.latent = resolution, channels, z_dim, latent

    def sample_z(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, z_dim] fresh latents, N(0, 1) or uniform in [-1, 1), on the network's device.

        They are drawn on the device of `generator` (the network's if None), then moved.
        """
        home = next(self.parameters())
        where = home.device if generator is None else generator.device
        draw = torch.randn if self.latent == "normal" else torch.rand
        z = draw(n, self.z_dim, generator=generator, device=where, dtype=home.dtype).to(home.device)
        return z if self.latent == "normal" else z * 2 - 1

    truncation: tuple[float, int | None] = (1.0, None)
    label: int | None = None
    c_dim: int = 0
    codes: int = 0
    """How many of the c_dim numbers, the last, are continuous codes in [-1, 1] (InfoGAN's); the others are one-hot."""
    class_names: tuple[str, ...] = ()
    """Of the classes, where those of the data are known."""

    @property
    def classes(self) -> int:
        """Of the one-hot part of a condition."""
        return self.c_dim - self.codes

    def truncate(self, psi: float, cutoff: int | None = None) -> None:
        """From now on `display` truncates; see the mapping network. Raises: ValueError for a network without one."""
        if not hasattr(self, "mapping"):
            raise ValueError(f"{type(self).__module__}: there is no mapping network, so truncation has no meaning")
        self.truncation = (psi, cutoff)

    def choose(self, label: int | str | None) -> None:
        """From now on `display` shows this class: a name of `class_names`, or a number.

        Raises: ValueError for a class that the network does not have.
        """
        number = label
        if isinstance(label, str):
            known = label in self.class_names
            number = self.class_names.index(label) if known else int(label) if label.isdecimal() else -1
        if number is not None and not 0 <= number < self.classes:
            raise ValueError(f"{type(self).__module__}: label is {label}, and this network has {self.said_classes}")
        self.label = number

    @property
    def said_classes(self) -> str:
        """The classes in words."""
        if not self.classes:
            return "no classes"
        names = f" ({', '.join(self.class_names)})" if self.class_names else ""
        return f"classes 0 to {self.classes - 1}{names}"

    def display(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Images [N, channels, *size] as they are looked at: the same for the same latents (and labels c [N, c_dim]).

        Noise is constant, latents are truncated as `truncate` said, labels those that `choose` said unless given, with
        continuous codes 0, and what has not grown yet is enlarged.
        """
        if hasattr(self, "mapping"):
            return self.display_styles(self.styles(z, c))
        c = self._labels(z, c)
        return self.enlarged(self(z) if c is None else self(z, c))

    def styles(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The intermediate latents [N, num_ws, w_dim] that `display` takes for latents [N, z_dim]."""
        self._needs_mapping()
        return self.mapping(z, self._labels(z, c), *self.truncation)

    def display_styles(self, ws: Tensor) -> Tensor:
        """`display` of intermediate latents [N, num_ws, w_dim], as they are."""
        self._needs_mapping()
        takes = inspect.signature(self.synthesis.forward).parameters
        return self.enlarged(self.synthesis(ws, **({"noise_mode": "const"} if "noise_mode" in takes else {})))

    def _needs_mapping(self) -> None:
        if not hasattr(self, "mapping"):
            raise ValueError(f"{type(self).__module__}: there is no mapping network, so there are no styles")

    def _labels(self, z: Tensor, c: Tensor | None) -> Tensor | None:
        if c is not None or (self.label is None and (self.classes or not self.codes)):
            return c
        c = z.new_zeros(len(z), self.c_dim)
        if self.label is not None:
            c[:, self.label] = 1
        return c

    def enlarged(self, images: Tensor) -> Tensor:
        """`images` at the network's size, which those of a network that is still growing have not."""
        return images if images.shape[2:] == self.size else torch.nn.functional.interpolate(images, size=self.size)

    def flat(self, z: Tensor) -> Tensor:
        """`z` as [N, z_dim]; raises ValueError unless it is that or [N, z_dim, 1, 1]."""
        if z.shape[1:] not in ((self.z_dim,), (self.z_dim, 1, 1)):
            raise ValueError(
                f"{type(self).__name__}: z has shape {list(z.shape)}, expected [N, {self.z_dim}] or "
                f"[N, {self.z_dim}, 1, 1]; sample_z(n) draws it"
            )
        return z.flatten(1)


class Discriminator(Network):
    """Base of the discriminators: images [N, channels, *size] to logits [N] or [N, 1], high for real."""

    def __init__(self, resolution: Resolution, channels: int) -> None:
        super().__init__()
        _check_positive(self, channels=channels)
        self.size = _checked_size(self, resolution)
        self.resolution, self.channels = resolution, channels

    def checked(self, images: Tensor) -> Tensor:
        """`images`; raises ValueError if their shape is not this network's."""
        if images.ndim != 4 or images.shape[1:] != (self.channels, *self.size):
            raise ValueError(
                f"{type(self).__name__}: images have shape {list(images.shape)}, expected "
                f"[N, {self.channels}, {self.size[0]}, {self.size[1]}]"
            )
        return images


def linearize_logits(net: Discriminator, images: Tensor) -> tuple[Tensor, Linearization]:
    """The rule of a discriminator that returns ``main(checked(images)).flatten()``."""
    y, derivative = linearize(net.main, net.checked(images))
    logits = y.flatten()
    return logits, linearized.chain(derivative, linearized.reshaped(y, logits))


def levels(net: Network, resolution: Resolution) -> dict[int, tuple[int, int]]:
    """{r: (H, W)} of a network that doubles its image from r = 4: r is the shorter side, so square images are r x r.

    A non-square image is an extension: the longer side is any multiple of a quarter of the shorter one, and the network
    starts from 4 x 4, 4 x 5, 4 x 6, ... Raises: ValueError for any other size, and a shorter side that is no power of
    two from 8.
    """
    height, width = _checked_size(net, resolution)
    short, long = min(height, width), max(height, width)
    if short < 8 or short & (short - 1) or long % (short // 4):
        raise ValueError(
            f"{type(net).__name__}: resolution {resolution}, expected a power of two from 8, or [H, W] whose shorter "
            "side is one and whose longer side is a multiple of a quarter of it"
        )
    return {1 << k: (height * (1 << k) // short, width * (1 << k) // short) for k in range(2, short.bit_length())}


def channels(net: Network, sizes: dict[int, tuple[int, int]], base: int, most: int) -> dict[int, int]:
    """Channels at each resolution r: ``min(base // r, most)``. Raises: ValueError where that leaves none."""
    if most < 1 or base < max(sizes):
        raise ValueError(
            f"{type(net).__name__}: channel_base {base}, channel_max {most} leave a resolution without channels, "
            f"expected at least {max(sizes)} and 1"
        )
    return {r: min(base // r, most) for r in sizes}


class Growing:
    """Of networks that grow: how far a call that does not say so has grown. Not part of config or state dict.

    A class above the network's own: ``class Generator(Growing, base.Generator)``.
    """

    sizes: dict[int, tuple[int, int]]
    grown: tuple[int | None, float] = (None, 1.0)

    def grow(self, resolution: int | None, alpha: float = 1.0) -> None:
        """From now on calls run as with this resolution and alpha; None for all of it. Raises: ValueError."""
        stages(self, self.sizes, resolution, alpha)
        self.grown = (resolution, alpha)

    def stage(self, resolution: int | None, alpha: float | None) -> tuple[int | None, float]:
        """What a call with these arguments takes."""
        if resolution is None:
            resolution = self.grown[0]
        return resolution, self.grown[1] if alpha is None else alpha


def stages(net: torch.nn.Module, sizes: dict[int, tuple[int, int]], resolution: int | None, alpha: float) -> list[int]:
    """Resolutions, lowest first, of a network that has grown to `resolution`. Raises: ValueError, for alpha too."""
    if resolution is not None and resolution not in sizes:
        raise ValueError(
            f"{type(net).__name__}: resolution {resolution}, expected one of {', '.join(map(str, sizes))} or None"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"{type(net).__name__}: alpha {alpha}, expected 0 to 1")
    return [r for r in sizes if resolution is None or r <= resolution]


def labels(net: torch.nn.Module, c: Tensor | None, c_dim: int, n: int, needed: bool = True) -> Tensor | None:
    """`c`, or None for a network without. Raises: ValueError for labels of another shape, missing, or not taken."""
    if c is None and (c_dim == 0 or not needed):
        return None
    if c is None or c.ndim != 2 or c.shape[1] != c_dim or c.shape[0] != n:
        got = "None" if c is None else f"of shape {list(c.shape)}"
        raise ValueError(f"{type(net).__name__}: c is {got}, expected [{n}, {c_dim}]" + (", or None" * (c_dim == 0)))
    return c if c_dim else None


def _checked_size(net: Network, resolution: Resolution) -> tuple[int, int]:
    size = [resolution, resolution] if isinstance(resolution, int) else list(resolution)
    if len(size) != 2 or not all(isinstance(side, int) and side >= 1 for side in size):
        raise ValueError(f"{type(net).__name__}: resolution {resolution}, expected 1 or more, or [H, W] of such")
    return size[0], size[1]


def _check_positive(net: Network, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{type(net).__name__}: {name} {size}, expected 1 or more")
