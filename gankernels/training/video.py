"""Walks between images as moving pictures: GIF, WebP and APNG through Pillow, MP4 where PyAV is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gankernels.errors import ConfigError, need
from gankernels.training import pictures
from gankernels.training.generate import codes, interpolate, make_folder, render, spherical

FORMATS = ("gif", "webp", "apng", "mp4")
_LEAST = 256


def loop(generator: nn.Module, keys: Tensor, steps: int) -> Tensor:
    """Codes [len(keys) * steps, ...] of a walk past each of the keys and back to the first, which is not repeated."""
    weights = torch.arange(steps, device=keys.device) / steps
    round_trip = zip(keys, keys.roll(-1, 0), strict=True)
    return torch.cat([interpolate(a, b, weights, spherical=spherical(generator, keys)) for a, b in round_trip])


def write_video(
    generator: nn.Module, out: Path, seed: int, count: int, steps: int, space: str, form: str, rate: int
) -> Path:
    """Write interpolation.FORM, an endless loop past images 0 .. count - 1 of the seed; returns its path.

    Args:
        steps: pictures from one image to the next.
        space: "z" or "w", in which the walk goes.
        form: one of FORMATS.
        rate: pictures a second; GIF rounds their time to hundredths of a second.
    """
    if form not in FORMATS:
        raise ConfigError(f"format is {form!r}, expected one of {', '.join(FORMATS)}")
    if form == "mp4":
        need("av", "video")  # said before the pictures are computed
    walk = loop(generator, codes(generator, seed, range(count), space), steps)
    frames = [pictures.enlarged(pixels, _LEAST) for pixels in pictures.to_bytes(render(generator, walk))]
    path = make_folder(out) / f"interpolation.{'png' if form == 'apng' else form}"
    if form == "mp4":
        _mp4(path, [np.asarray(pictures.flat(pictures.picture(frame))) for frame in frames], rate)
        return path
    first, *rest = (pictures.flat(pictures.picture(frame)) for frame in frames)
    options = {"lossless": True} if form == "webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / rate), loop=0, **options)
    return path


def _mp4(path: Path, frames: list[np.ndarray], rate: int) -> None:
    """H.264 in 4:2:0 for everything that plays it; sides are made even, by repeating the last row or column."""
    av = need("av", "video")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        height, width = (side + side % 2 for side in frames[0].shape[:2])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            padded = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), mode="edge")
            file.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        file.mux(stream.encode())
