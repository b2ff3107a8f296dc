"""How far a generator's images are from real ones, and how near to those it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gankernels import data, metrics
from gankernels.data import ImageData
from gankernels.data.dataset import keyed_generator
from gankernels.errors import ConfigError
from gankernels.training import pictures
from gankernels.training.generate import conditions, interpolate, latents, make_folder, save_picture
from gankernels.training.networks import load_generator

Metric = Literal["fid", "kid", "pr", "is", "ppl"]
NOT_COMPARABLE = "not comparable to Inception-FID"
ROWS = 8
"""Generated images that are shown beside real ones."""
_LEAST = {"fid": 2, "kid": 2, "pr": 4}


@dataclass
class Samples:
    """The first of the generated images, the features and class probabilities of all; and features of real ones."""

    first: Tensor
    fake_features: Tensor
    fake_classes: Tensor
    real: ImageData
    real_chosen: Tensor
    real_features: Tensor


@torch.no_grad()
def generated(
    generator: nn.Module, count: int, seed: int, batch: int = 64, labels: Tensor | None = None
) -> Iterator[Tensor]:
    """Images 0 .. count - 1 of the seed in parts [<= batch, C, H, W], of the classes that `conditions` draws."""
    numbers = range(count)
    z, c = latents(generator, seed, numbers), conditions(generator, seed, numbers, labels)
    device = next(generator.parameters()).device
    for i, one in enumerate(z.split(batch)):
        label = () if c is None else (c[i * batch : (i + 1) * batch].to(device),)
        yield generator.display(one.to(device), *label).cpu()


def fake_features(
    extract: metrics.Extractor,
    generator: nn.Module,
    count: int,
    seed: int,
    first: int = 0,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of images 0 .. count - 1 of the seed: features, class probabilities, and the `first` images themselves.

    An image is forgotten once its features are known: 50000 of 256x256 would take 39 GB.
    """
    kept, found = [], []
    for part in generated(generator, count, seed, extract.batch, labels):
        kept.append(part[:first].clone())
        first -= len(kept[-1])
        found.append(extract(opaque(part)))
    features, classes = (torch.cat(column) for column in zip(*found, strict=True))
    return features, classes, torch.cat(kept)


def own_labels(generator: nn.Module, images: ImageData) -> Tensor | None:
    """The images' labels [N] where they are the classes of a generator out of a run, else None."""
    return images.labels if generator.class_names and generator.class_names == images.class_names else None


def comparable(generator: nn.Module, images: ImageData) -> Tensor:
    """Indices of the real images that its own are to be like: of the class that was chosen, where they tell theirs."""
    labels = own_labels(generator, images)
    if labels is None or generator.label is None:
        return torch.arange(len(images))
    return (labels == generator.label).nonzero().flatten()


def check_real(images: ImageData, there: int, wanted: Sequence[str]) -> None:
    """Raise ConfigError where `there` of these images are too few for one of the metrics."""
    for name in wanted:
        if there < _LEAST.get(name, 0):
            raise ConfigError(
                f"{there} real images of {images.name} ({len(images)} in all), and {name} takes at least "
                f"{_LEAST[name]}; raise --real-count, or name more images with --data"
            )


def real_features(
    extract: metrics.Extractor, images: ImageData, count: int | None, seed: int, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of `count` real images, chosen by the seed (all for None, or where there are fewer), and features.

    among: the indices to choose from; None: all.
    """
    among = torch.arange(len(images)) if among is None else among
    chosen = among[torch.randperm(len(among), generator=keyed_generator("evaluate", seed))][:count]
    return chosen, torch.cat([extract(opaque(images.batch(part)))[0] for part in chosen.split(256)])


def evaluate(
    generator: nn.Module, samples: Samples, wanted: Sequence[str], seed: int, perceptual: metrics.Perceptual | None
) -> dict[str, Any]:
    """{name: value} of the metrics asked for; "pr" gives precision and recall, "is" a mean and a deviation."""
    found: dict[str, Any] = {}
    real, fake = samples.real_features, samples.fake_features
    for name in wanted:
        if name == "fid":
            found["fid"] = metrics.fid(real, fake)
        elif name == "kid":
            found["kid"] = metrics.kid(real, fake)
        elif name == "pr":
            found["precision"], found["recall"] = metrics.precision_recall(real, fake)
        elif name == "is":
            found["is"], found["is_deviation"] = metrics.inception_score(samples.fake_classes)
        elif name == "ppl":
            found["ppl"] = path_length(generator, len(fake), seed, perceptual)
    return found


def path_length(generator: nn.Module, count: int, seed: int, perceptual: metrics.Perceptual) -> float:
    """PPL over `count` paths: in W of a generator with a mapping network, on great circles in Z of others, which have
    InfoGAN's continuous codes at 0."""
    device = next(generator.parameters()).device
    ends = [latents(generator, seed, range(first, 2 * count, 2)).to(device) for first in (0, 1)]
    c = conditions(generator, seed, range(count))
    c = None if c is None else c.to(device)
    weights = torch.rand(count, generator=keyed_generator("path length", seed)).to(device)
    perceptual = perceptual.to(device)

    def straight(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(a, b, t.view(-1, *[1] * (a.ndim - 1)))

    def curved(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return torch.cat([interpolate(x, y, s[None], spherical=True) for x, y, s in zip(a, b, t, strict=True)])

    def show(codes: Tensor) -> Tensor:
        return opaque((generator.display if codes.ndim == 2 else generator.display_styles)(codes))

    if hasattr(generator, "mapping"):
        with torch.no_grad():
            ends = [generator.styles(z, c) for z in ends]
        walk = straight
    elif generator.classes and generator.label is None:
        raise ConfigError("ppl of a network with classes and without a mapping network: name one class with --label")
    else:
        walk = curved if generator.latent == "normal" else straight
    return metrics.path_length(show, *ends, perceptual, walk, weights)


def sample(
    generator: nn.Module, extract: metrics.Extractor, images: ImageData, count: int, real: int | None, seed: int
) -> Samples:
    """`count` generated images, and `real` real ones (None: all), with what the metrics need of them.

    Both are of the class that was chosen, or of all, as frequent as the real ones', where these tell theirs.
    """
    features, classes, first = fake_features(extract, generator, count, seed, ROWS, own_labels(generator, images))
    chosen = real_features(extract, images, real, seed, comparable(generator, images))
    return Samples(first, features, classes, images, *chosen)


def load(checkpoint: Path, name: str | None, device: torch.device) -> tuple[nn.Module, ImageData]:
    """The generator of a checkpoint and real images at its resolution, those of its run unless named.

    Raises:
        InputError: checkpoint or data are missing or do not fit.
    """
    generator, config = load_generator(checkpoint, device)
    if name is None and config is None:
        raise ConfigError(f"{checkpoint} has no data of its own; name real images with --data")
    height, width = generator.size
    if height != width:
        raise ConfigError(f"images are {height}x{width}, and the data sets here are of square ones")
    return generator, data.load(name or config.data, resolution=height, channels=generator.channels)


def write_neighbours(samples: Samples, out: Path, rows: int = ROWS, columns: int = 6) -> Path:
    """Write neighbours.png: in each row a generated image, then the real ones nearest to it in features.

    A copy of a real image beside the first of them shows memorisation.
    """
    rows, columns = min(rows, len(samples.first)), min(columns, len(samples.real_features))
    _, found = metrics.nearest(samples.fake_features[:rows], samples.real_features, columns)
    lines = [
        torch.cat([samples.first[i : i + 1], samples.real.batch(samples.real_chosen[found[i]])]) for i in range(rows)
    ]
    return save_picture(pictures.grid(torch.cat(lines), columns + 1), make_folder(out) / "neighbours.png")


def opaque(images: Tensor) -> Tensor:
    """Images in [-1, 1] without their alpha channel, laid over white.

    Raises:
        ConfigError: another number of channels than 1 to 4.
    """
    if images.shape[1] in (1, 3):
        return images
    if images.shape[1] not in (2, 4):
        raise ConfigError(f"images have {images.shape[1]} channels; the features are those of grey or RGB images")
    colour, alpha = images[:, :-1], (images[:, -1:] + 1) / 2
    return colour * alpha + (1 - alpha)
