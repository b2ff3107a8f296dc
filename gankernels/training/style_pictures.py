"""What a mapping network makes possible: truncation sweeps, and style mixing by resolution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gankernels.errors import ConfigError
from gankernels.training import pictures
from gankernels.training.generate import codes, latents, make_folder, need_styles, render, save_picture

BANDS = {"coarse": (0, 16), "middle": (16, 64), "fine": (64, float("inf"))}
"""Resolutions, from the first to below the second, of the styles that go by a name (arXiv 1812.04948, figure 3)."""


def style_resolutions(generator: nn.Module) -> list[float]:
    """The resolution at which each of the num_ws styles works.

    StyleGAN3's layers, whose canvases do not double, count by twice their cutoff: the resolution of images that hold
    the same frequencies.
    """
    synthesis = generator.synthesis
    if hasattr(synthesis, "layers"):
        after = [2 * getattr(synthesis, name).after.cutoff for name in synthesis.layers]
        return [2 * synthesis.input.signal.cutoff, *after]
    if hasattr(synthesis, "sizes"):
        return [float(r) for r in synthesis.sizes for _ in range(2)]
    blocks = [(float(name.removeprefix("b")), getattr(synthesis, name).num_conv) for name in synthesis.blocks]
    return [r for r, count in blocks for _ in range(count)] + [blocks[-1][0]]  # the last image's own


def chosen_styles(generator: nn.Module, which: str) -> Tensor:
    """bool [num_ws]: the styles called coarse, middle or fine, or those of a range such as "2-5" or "3".

    Raises:
        ConfigError: another name, a range outside num_ws, or a name that no style of this generator has.
    """
    count = generator.num_ws
    if which in BANDS:
        low, high = BANDS[which]
        chosen = torch.tensor([low <= r < high for r in style_resolutions(generator)])
        if not chosen.any():
            raise ConfigError(
                f"layers names {which}, and this network of {generator.resolution} pixels has no such styles"
            )
        return chosen
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", which)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < count:
        raise ConfigError(f"layers holds {which!r}, expected {', '.join(BANDS)} or a range within 0-{count - 1}")
    return torch.tensor([first <= i <= last for i in range(count)])


def available_bands(generator: nn.Module) -> list[str]:
    """Those of coarse, middle and fine that this generator has styles of."""
    resolutions = style_resolutions(generator)
    return [name for name, (low, high) in BANDS.items() if any(low <= r < high for r in resolutions)]


def write_truncation(
    generator: nn.Module, out: Path, seed: int, numbers: Sequence[int], psis: Sequence[float], cutoff: int | None
) -> Path:
    """Write truncation.png: a column for each image number of the seed, a row for each psi; returns its path."""
    need_styles(generator, "truncation was asked")
    if not psis or not numbers:
        raise ConfigError("psis and columns must each name at least one number")
    z, rows = latents(generator, seed, numbers), []
    for psi in psis:
        generator.truncate(psi, cutoff)
        rows.append(render(generator, z))
    return save_picture(pictures.grid(torch.cat(rows), len(numbers)), make_folder(out) / "truncation.png")


def mixed(generator: nn.Module, rows: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
    """Styles [rows * columns, num_ws, w_dim]: each row's, with those `chosen` (bool [num_ws]) from each column."""
    pairs = torch.where(chosen[:, None].to(rows.device), columns[None], rows[:, None])  # [rows, columns, num_ws, w_dim]
    return pairs.flatten(0, 1)


def write_mixing(
    generator: nn.Module,
    out: Path,
    seed: int,
    rows: Sequence[int],
    columns: Sequence[int],
    layers: Sequence[str],
) -> list[Path]:
    """Write mixing-LAYERS.png for each of `layers`: the row's image with those styles from the column's.

    The top row and the left column show the images themselves.
    """
    need_styles(generator, "mixing was asked")
    if not rows or not columns:
        raise ConfigError("rows and columns must each name at least one image number")
    masks = {which: chosen_styles(generator, which) for which in layers or available_bands(generator)}
    ours, theirs = (codes(generator, seed, numbers, "w") for numbers in (rows, columns))
    left, top = render(generator, ours), render(generator, theirs)
    folder, paths = make_folder(out), []
    for which, chosen in masks.items():
        inside = render(generator, mixed(generator, ours, theirs, chosen)).unflatten(0, (len(rows), len(columns)))
        lines = [torch.cat([torch.ones_like(top[:1]), top])]
        lines += [torch.cat([own[None], line]) for own, line in zip(left, inside, strict=True)]
        picture = pictures.grid(torch.cat(lines), len(columns) + 1)
        paths.append(save_picture(picture, folder / f"mixing-{which}.png"))
    return paths
