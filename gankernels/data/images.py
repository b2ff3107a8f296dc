"""One image file, of whatever mode and size, to a square uint8 array.

The rules, in order:

1. The first frame is decoded and turned upright by its EXIF orientation.
2. 16-bit grey becomes 8-bit by round(v / 257); palette, CMYK, YCbCr, LAB and bilevel images are converted by Pillow's
   own formulas (no colour profile is applied); a transparent palette entry or key colour becomes alpha.
3. The centre square of side min(width, height) is kept (the odd pixel is dropped at the right or the bottom).
4. The square is resized to the resolution by Lanczos with Pillow's antialiasing (its support grows with the reduction,
   so that every source pixel counts); colours are weighted by alpha, so that hidden colours do not bleed.
5. Channels: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Where the result has no alpha the image is laid over white; where
   the file has none the result is opaque.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gankernels.errors import DataError, need

if TYPE_CHECKING:
    from PIL import Image as PilImage

MAX_PIXELS = 64_000_000
"""Images with more pixels than this are skipped as bombs, by their header, before anything is decoded."""

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff"}
    | {".webp"}
)

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of an image of so many channels."""

# What Pillow's decoders raise on damaged bytes; anything else is a bug of ours or of the machine and must be seen.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


class Decoded(NamedTuple):
    pixels: np.ndarray
    """uint8 [C, resolution, resolution]."""
    short_side: int
    """min(width, height) of the file, in pixels."""


class BadImage(ValueError):
    """The file cannot be used; the message is the reason."""


def check_format(resolution: int, channels: int) -> None:
    """Raise DataError unless resolution is a positive int and channels one of 1, 2, 3, 4."""
    if not isinstance(resolution, int) or resolution < 1:
        raise DataError(f"resolution must be a positive whole number of pixels, got {resolution!r}")
    if channels not in MODES:
        raise DataError(f"channels must be 1 (grey), 2 (grey + alpha), 3 (RGB) or 4 (RGBA), got {channels!r}")


def decode(
    data: bytes,
    resolution: int,
    channels: int,
    room: Callable[[int], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Decoded:
    """Decode the bytes of an image file by the rules above.

    Args:
        room: is given the number of pixels that the header states; what it returns is held while they are in memory.

    Raises:
        BadImage: the bytes are empty, no image, damaged, truncated, over MAX_PIXELS, or of a mode without a stated
            range (floating point, 32-bit integers beyond 16 bits).
    """
    image_module = need("PIL.Image", "train")
    need("PIL.ImageOps", "train")
    if not data:
        raise BadImage("the file is empty")
    try:
        image = image_module.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(f"{width}x{height} pixels, over the limit of {MAX_PIXELS}")
        with room(width * height):
            image.load()
            return Decoded(to_square(image, resolution, channels), min(width, height))
    except BadImage:
        raise
    except image_module.UnidentifiedImageError as error:
        raise BadImage("not an image of a known format, or its header is damaged") from error
    except image_module.DecompressionBombError as error:
        raise BadImage(f"over the limit of {MAX_PIXELS} pixels") from error
    except _DAMAGED as error:
        raise BadImage(f"damaged or truncated ({type(error).__name__}: {error})") from error


def to_square(image: PilImage.Image, resolution: int, channels: int) -> np.ndarray:
    """A loaded Pillow image to uint8 [channels, resolution, resolution] by the rules of this module."""
    image_module = need("PIL.Image", "train")
    image = _to_8_bit(need("PIL.ImageOps", "train").exif_transpose(image))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if image.mode in ("LA", "RGBA") and channels in (1, 3):
        ground = image_module.new("RGBA", image.size, (255, 255, 255, 255))
        image = image_module.alpha_composite(ground, image.convert("RGBA"))
    image = image.convert(MODES[channels])
    if side != resolution:
        # Image.resize weights LA and RGBA by alpha itself.
        image = image.resize((resolution, resolution), image_module.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(resolution, resolution, channels).transpose(2, 0, 1))


def _to_8_bit(image: PilImage.Image) -> PilImage.Image:
    """To one of L, LA, RGB, RGBA, keeping transparency."""
    if image.mode.startswith(("I;16", "I")):
        values = np.asarray(image).astype(np.int32)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise BadImage(f"mode {image.mode} with values outside 0..65535, whose range is not stated")
        return need("PIL.Image", "train").fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadImage("floating-point image, whose range is not stated")
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("1", "L", "La")
        return image.convert("RGBA").convert("LA") if grey else image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
