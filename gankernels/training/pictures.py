"""Pictures of a run: sample grids, their history as a GIF and a strip, loss curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gankernels.data.images import MODES
from gankernels.errors import need

if TYPE_CHECKING:
    from PIL import Image as PilImage

_GAP = 2


def to_bytes(images: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] to uint8 on the CPU; what lies outside is clamped."""
    return images.detach().to("cpu", torch.float32).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def picture(image: Tensor) -> PilImage.Image:
    """uint8 [C, H, W] with 1 (grey), 2 (grey + alpha), 3 (RGB) or 4 (RGBA) channels as a Pillow image."""
    if image.shape[0] not in MODES:
        raise ValueError(f"image must have 1 to 4 channels, got shape {list(image.shape)}")
    array = image.permute(1, 2, 0).contiguous().numpy()
    return need("PIL.Image", "train").fromarray(array[:, :, 0] if image.shape[0] == 1 else array)


def grid(images: Tensor, columns: int, *, least: int = 512) -> PilImage.Image:
    """Images [N, C, H, W] in [-1, 1], row by row on white; every pixel is repeated until the grid is `least` wide."""
    pixels = to_bytes(images)
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    canvas = torch.full((channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), 255).to(torch.uint8)
    for i, image in enumerate(pixels):
        top, left = (_GAP + (i // columns) * (height + _GAP)), (_GAP + (i % columns) * (width + _GAP))
        canvas[:, top : top + height, left : left + width] = image
    return picture(enlarged(canvas, least))


def enlarged(pixels: Tensor, least: int) -> Tensor:
    """[C, H, W] with every pixel repeated until it is `least` wide."""
    scale = max(1, -(-least // pixels.shape[2]))
    return pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def history(frames: list[Path], gif: Path, strip: Path, rows: int) -> None:
    """Sample grids over time, all of `rows` rows: a GIF of them, and a strip of their first rows, oldest on top."""
    if not frames:
        return
    image_module = need("PIL.Image", "train")
    opened = [flat(image_module.open(path)) for path in _spread(frames, 100)]
    times = [150] * (len(opened) - 1) + [2000]
    opened[0].save(gif, save_all=True, append_images=opened[1:], duration=times, loop=0)
    chosen = [flat(image_module.open(path)) for path in _spread(frames, 10)]
    height = chosen[0].height // rows
    canvas = image_module.new("RGB", (chosen[0].width, height * len(chosen)))
    for i, frame in enumerate(chosen):
        canvas.paste(frame.crop((0, 0, frame.width, height)), (0, i * height))
    canvas.save(strip)


def flat(image: PilImage.Image) -> PilImage.Image:
    """An RGB picture, laid on white where it has an alpha channel."""
    if "A" not in image.mode:
        return image.convert("RGB")
    ground = need("PIL.Image", "train").new("RGBA", image.size, (255, 255, 255, 255))
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _spread(items: list[Path], most: int) -> list[Path]:
    """At most `most` items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Losses, mean logits and metrics of a run over the images seen, as a PNG."""
    if not metrics:
        return
    figure_class = need("matplotlib.figure", "train").Figure  # no pyplot: it would pick a window system
    figure = figure_class(figsize=(8, 6), layout="constrained")
    measured = [name for name in ("kid", "fid") if any(line.get(name) is not None for line in metrics)]
    upper, lower, *extra = figure.subplots(2 + len(measured), sharex=True)
    for axes, names, title in (
        (upper, {"d_loss": "discriminator", "g_loss": "generator"}, "loss"),
        (lower, {"d_real": "real", "d_fake": "generated"}, "mean logit"),
    ):
        for key, label in names.items():
            points = [(line["images"], line[key]) for line in metrics if line.get(key) is not None]
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
        axes.set_ylabel(title)
        if axes.lines:  # a run that measured before it logged has none yet
            axes.legend(loc="upper right")
    for axes, name in zip(extra, measured, strict=True):
        points = [(line["images"], line[name]) for line in metrics if line.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1)
        axes.set_ylabel(name.upper())
    for axes in (upper, lower, *extra):
        axes.grid(alpha=0.3)
    (*_, last) = (upper, lower, *extra)
    last.set_xlabel("real images shown")
    figure.savefig(path, dpi=120)
