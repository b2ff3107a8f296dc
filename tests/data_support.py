"""Images and files that the tests of data share."""

import io
import struct
import zlib

import numpy as np
import pytest

from gankernels.data import images as images_module

Image = pytest.importorskip("PIL.Image")

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def split(mode, left, right, size=(8, 8)):
    """An image whose left half is one colour and whose right half is another."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def two_colour_palette():
    image = split("P", 0, 1)
    image.putpalette([0, 0, 0, *BLUE])
    return image


def decode(data, resolution=8, channels=3):
    return images_module.decode(data, resolution, channels).pixels


def fill(folder, count, resolution=8, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (resolution, resolution), (i % 256, 0, 0)).save(folder / f"{i:04}.png")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise_png():
    return png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)))
