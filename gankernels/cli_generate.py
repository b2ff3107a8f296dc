"""The command `gankernels generate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from gankernels.errors import ConfigError
from gankernels.training import TrainConfig, load_generator
from gankernels.training.checkpoint import find
from gankernels.training.generate import make_folder, write_arithmetic, write_images, write_interpolation
from gankernels.training.style_pictures import write_mixing, write_truncation
from gankernels.training.video import write_video

What = Literal["images", "interpolation", "video", "arithmetic", "truncation", "mixing", "projection"]
COUNTS = {"images": 64, "interpolation": 8, "video": 4}
STEPS = {"interpolation": 10, "video": 30}


@dataclass
class Generate:
    """Write pictures out of a trained generator."""

    checkpoint: Path
    """A checkpoint, a run's folder for its newest one, or what `gankernels convert` wrote."""
    what: What = "images"
    """images: single ones and a grid. interpolation: walks between images, a row each. video: an endless walk.
    arithmetic: the 3x3 grid around a - b + c. truncation: columns of images, a row for each psi. mixing: rows of
    images that take their coarse, middle or fine styles from the columns. projection: the image nearest to a target.
    The last three are those of stylegan*."""
    out: Path | None = None
    """Folder to write to; generated/ beside the run's checkpoints unless given."""
    seed: int = 0
    """Image number i of a seed is always the same image."""
    count: int | None = None
    """images: how many (64). interpolation: how many walks (8). video: images on the way (4)."""
    steps: int | None = None
    """interpolation: pictures a walk (10). video: pictures from one image to the next (30)."""
    space: Literal["z", "w"] = "z"
    """interpolation, video, arithmetic: of latents, or of what the mapping network makes of them (stylegan*)."""
    a: tuple[int, ...] = (0, 1, 2)
    """arithmetic: numbers of the images whose mean code is added."""
    b: tuple[int, ...] = (3, 4, 5)
    """arithmetic: numbers of the images whose mean code is taken away."""
    c: tuple[int, ...] = (6, 7, 8)
    """arithmetic: numbers of the images whose mean code is added."""
    noise: float = 0.25
    """arithmetic: half-width of the uniform noise around the centre."""
    rows: tuple[int, ...] = (0, 1, 2, 3)
    """mixing: numbers of the images that give all styles but those of the columns."""
    columns: tuple[int, ...] = (4, 5, 6, 7, 8, 9)
    """mixing: numbers of the images that give the styles of `layers`. truncation: numbers of the images."""
    layers: tuple[str, ...] = ()
    """mixing: coarse (styles of 4 to 8 pixels), middle (16 to 32), fine (64 and more) or ranges such as 2-5, a picture
    each; unless given those of the three that the network has."""
    psis: tuple[float, ...] = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
    """truncation: the values of psi."""
    format: Literal["gif", "webp", "apng", "mp4"] = "gif"
    """video: kind of file; mp4 needs PyAV (pip install av)."""
    rate: int = 30
    """video: pictures a second."""
    target: Path | None = None
    """projection: the image to come near to."""
    iterations: int = 1000
    """projection: steps of the optimiser."""
    vgg16_weights: Path | None = None
    """projection: measure the distance on VGG16, whose state dict of torchvision this is, not on EfficientNet-Lite0."""
    lpips_weights: Path | None = None
    """projection: the linear layers of LPIPS for VGG16."""
    label: str | None = None
    """Class of the images of a conditional network, by the name that the run's data has for it, or by number; category
    of one of infogan, whose continuous codes are drawn for images and 0 for the rest. Of infogan, images are of all
    categories unless given."""
    average: bool = True
    """Use the moving average of the generator's weights."""
    truncation: float = 1.0
    """Truncation psi (stylegan*): how far from the mean latent (0) to their own (1) the images are."""
    truncation_cutoff: int | None = None
    """Truncate the first, coarse styles only; all unless given."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes cuda where there is one."""

    def run(self) -> int:
        count, steps = (self.count or COUNTS.get(self.what, 1), self.steps or STEPS.get(self.what, 2))
        least = {"seed": 0, "count": 1, "steps": 2, "noise": 0, "rate": 1, "iterations": 1}
        for name, value in ((name, getattr(self, name)) for name in least):
            if value is not None and not value >= least[name]:
                raise ConfigError(f"{name} must be at least {least[name]}, got {value}")
        for name in ("a", "b", "c", "rows", "columns"):
            if any(number < 0 for number in getattr(self, name)):
                raise ConfigError(f"{name} holds {min(getattr(self, name))}, expected image numbers from 0")
        file = find(self.checkpoint)
        generator, _ = load_generator(file, TrainConfig(device=self.device).torch_device(), average=self.average)
        if not (self.label is None and self.what == "images" and generator.codes):
            choose(generator, self.label)
        truncate(generator, self.truncation, self.truncation_cutoff)
        out = file.parent.parent / "generated" if self.out is None else self.out
        given = (generator, out, self.seed)
        cutoff = self.truncation_cutoff
        ways: dict[str, Callable] = {
            "images": lambda: write_images(*given, count),
            "interpolation": lambda: write_interpolation(*given, count, steps, self.space),
            "video": lambda: write_video(*given, count, steps, self.space, self.format, self.rate),
            "arithmetic": lambda: write_arithmetic(*given, self.a, self.b, self.c, self.noise, self.space),
            "truncation": lambda: write_truncation(*given, self.columns, self.psis, cutoff),
            "mixing": lambda: write_mixing(*given, self.rows, self.columns, self.layers),
            "projection": lambda: self._project(generator, out),
        }
        written = ways[self.what]()
        for path in written if isinstance(written, list) else [written]:
            print(f"wrote {path}")
        return 0

    def _project(self, generator: nn.Module, out: Path) -> list[Path]:
        from gankernels.training.projection import write_projection

        if self.target is None:
            raise ConfigError("projection needs --target IMAGE")
        weights = (self.vgg16_weights, self.lpips_weights)
        return write_projection(generator, make_folder(out), self.target, self.iterations, self.seed, *weights)


def truncate(generator: nn.Module, psi: float, cutoff: int | None) -> None:
    """Have the generator truncate; raises ConfigError where it cannot."""
    if psi == 1:
        return
    try:
        generator.truncate(psi, cutoff)
    except ValueError as error:
        raise ConfigError(f"truncation is {psi}: {error}") from error


def choose(generator: nn.Module, label: str | None) -> None:
    """Have the generator show a class; raises ConfigError where it has no such class, or needs one to be named."""
    if label is None and generator.classes:
        raise ConfigError(f"the network has {generator.said_classes}; name one with --label")
    try:
        generator.choose(label)
    except ValueError as error:
        raise ConfigError(str(error)) from error
