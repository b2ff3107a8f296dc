"""Pictures out of a trained generator: images, latent interpolation, latent arithmetic.

A code is what a picture is made of: a latent z [z_dim], or the styles [num_ws, w_dim] that a mapping network makes of
one. Everything here takes either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gankernels.data.dataset import keyed_generator
from gankernels.errors import ConfigError
from gankernels.training import pictures


def latents(generator: nn.Module, seed: int, numbers: Sequence[int]) -> Tensor:
    """float32 [len(numbers), z_dim]: latent number i of a seed is the same however many others are drawn."""
    return torch.cat([generator.sample_z(1, keyed_generator("generate", seed, i)) for i in numbers])


def conditions(generator: nn.Module, seed: int, numbers: Sequence[int], labels: Tensor | None = None) -> Tensor | None:
    """float32 [len(numbers), c_dim], drawn for image number i of a seed as training draws them.

    Classes are as frequent as in `labels` [N] (as each other for None), or the one that was chosen; InfoGAN's
    continuous codes are uniform in [-1, 1].
    None where nothing is to be drawn: the generator takes no conditions, or a class was chosen and it has no codes.
    """
    classes, n_codes, label = generator.classes, generator.codes, generator.label
    if not n_codes and (not classes or label is not None):
        return None
    c = torch.zeros(len(numbers), classes + n_codes)
    for row, i in zip(c, numbers, strict=True):
        draws = keyed_generator("generate conditions", seed, i)
        if classes:
            drawn = int(torch.randint(classes if labels is None else len(labels), (), generator=draws))
            drawn = drawn if labels is None else int(labels[drawn])
            row[drawn if label is None else label] = 1
        row[classes:] = torch.rand(n_codes, generator=draws) * 2 - 1
    return c


def codes(generator: nn.Module, seed: int, numbers: Sequence[int], space: str = "z") -> Tensor:
    """Latents of the seed's images (space "z"), or their styles [len(numbers), num_ws, w_dim] (space "w").

    Raises:
        ConfigError: "w" of a generator without a mapping network.
    """
    z = latents(generator, seed, numbers)
    if space == "z":
        return z
    need_styles(generator, f"space is {space}")
    with torch.no_grad():
        return generator.styles(z)


def need_styles(generator: nn.Module, what: str) -> None:
    """Raise ConfigError, which begins with `what` was asked, for a generator without a mapping network."""
    if not hasattr(generator, "mapping"):
        raise ConfigError(f"{what}, which needs a mapping network; this is a {type(generator).__name__} without one")


@torch.no_grad()
def render(generator: nn.Module, parts: Tensor, batch: int = 64, c: Tensor | None = None) -> Tensor:
    """Images [N, C, R, R] of N codes, computed in parts on the generator's device, on the CPU.

    c: conditions [N, c_dim] of latents; unless given, the class that was chosen and continuous codes 0.
    """
    device = next(generator.parameters()).device
    if c is not None:
        pairs = zip(parts.split(batch), c.split(batch), strict=True)
        return torch.cat([generator.display(part.to(device), of.to(device)).cpu() for part, of in pairs])
    show = generator.display if parts.ndim == 2 else generator.display_styles
    return torch.cat([show(part.to(device)).cpu() for part in parts.split(batch)])


def interpolate(start: Tensor, end: Tensor, weights: Tensor, *, spherical: bool) -> Tensor:
    """Codes [len(weights), ...] from start (weight 0) to end (weight 1).

    Spherical, for latents [z_dim] alone: along the great circle of the directions while the lengths change linearly, as
    fits normal latents, whose lengths hardly vary (White 2016, arXiv 1609.04468). Linear otherwise, and where the
    directions are (anti)parallel.
    """
    t = weights.view(-1, *[1] * start.ndim)
    straight = start + t * (end - start)
    if not spherical:
        return straight
    lengths = start.norm(), end.norm()
    a, b = start / lengths[0], end / lengths[1]
    angle = torch.arccos((a @ b).clamp(-1, 1))
    if not torch.sin(angle) > 1e-4:
        return straight
    directions = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return directions * (lengths[0] + t * (lengths[1] - lengths[0]))


def spherical(generator: nn.Module, parts: Tensor) -> bool:
    """Whether walks between these codes follow great circles: those between normal latents do."""
    return parts.ndim == 2 and generator.latent == "normal"


def arithmetic(a: Tensor, b: Tensor, c: Tensor, noise: float, seed: int) -> Tensor:
    """Nine codes: at the centre (index 4) mean(a) - mean(b) + mean(c) of codes [n, ...] each; around it the same with
    uniform noise in [-noise, noise] added (Radford et al. 2015, arXiv 1511.06434, figure 7), one for all styles."""
    centre = a.mean(0) - b.mean(0) + c.mean(0)
    draws = torch.rand(9, centre.shape[-1], generator=keyed_generator("arithmetic", seed)) * 2 - 1
    draws[4] = 0
    return centre + noise * (draws if centre.ndim == 1 else draws[:, None]).to(centre.device)


def write_images(generator: nn.Module, out: Path, seed: int, count: int) -> Path:
    """Write images 0 .. count - 1 of the seed as out/images/NNNNN.png, and a grid of the first 64; returns the grid."""
    folder = make_folder(out / "images")
    numbers = range(count)
    images = render(generator, latents(generator, seed, numbers), c=conditions(generator, seed, numbers))
    for i, pixels in enumerate(pictures.to_bytes(images)):
        pictures.picture(pixels).save(folder / f"{i:05}.png")
    return save_picture(pictures.grid(images[:64], min(8, count)), out / "images.png")


def write_interpolation(generator: nn.Module, out: Path, seed: int, rows: int, columns: int, space: str = "z") -> Path:
    """Write a grid whose every row walks from one code to another; returns its path."""
    ends = codes(generator, seed, range(2 * rows), space)
    weights = torch.linspace(0, 1, columns, device=ends.device)
    walks = [
        interpolate(ends[2 * i], ends[2 * i + 1], weights, spherical=spherical(generator, ends)) for i in range(rows)
    ]
    picture = pictures.grid(render(generator, torch.cat(walks)), columns)
    return save_picture(picture, make_folder(out) / "interpolation.png")


def write_arithmetic(
    generator: nn.Module,
    out: Path,
    seed: int,
    a: Sequence[int],
    b: Sequence[int],
    c: Sequence[int],
    noise: float,
    space: str = "z",
) -> Path:
    """Write a 3x3 grid around a - b + c, of image numbers of the seed, and beside it the images and means behind it.

    Returns the path of the 3x3 grid.

    Raises:
        ConfigError: one of the lists is empty, or the generator has no codes of that space.
    """
    if not (a and b and c):
        raise ConfigError("a, b and c must each name at least one image number")
    parts = [codes(generator, seed, numbers, space) for numbers in (a, b, c)]
    folder = make_folder(out)
    width = max(len(part) for part in parts)
    # A row of sources, its last picture that of the mean; short rows are padded with it.
    rows = [torch.cat([part, *[part.mean(0, keepdim=True)] * (width - len(part) + 1)]) for part in parts]
    save_picture(pictures.grid(render(generator, torch.cat(rows)), width + 1), folder / "arithmetic-sources.png")
    centre = arithmetic(*parts, noise, seed)
    return save_picture(pictures.grid(render(generator, centre), 3), folder / "arithmetic.png")


def make_folder(path: Path) -> Path:
    """Create a folder and its parents; raises ConfigError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {path} ({error.strerror}); name another folder") from error
    return path


def save_picture(image, path: Path) -> Path:
    image.save(path)
    return path
