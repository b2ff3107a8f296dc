"""Where images come from: the bundled sets, folders and zip files."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from gankernels.data.dataset import ImageData
from gankernels.data.images import SUFFIXES, BadImage, check_format, to_square
from gankernels.data.reading import decode_in_order, open_zip, read_file, read_member
from gankernels.errors import DataError, need

BUNDLED = ("fashion-mnist", "emoji")
MAX_SKIPPED = 0.05
"""A folder or zip file of whose images more than this part cannot be used is refused."""

_HERE = Path(__file__).parent / "bundled"
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class Skipped:
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def default_channels(name: str) -> int:
    """The channels that `load` gives a data set unless told: 1 for fashion-mnist, 3 for everything else."""
    return 1 if name == "fashion-mnist" else 3


def load(name: str, *, resolution: int, channels: int | None = None) -> ImageData:
    """Read a data set into memory as uint8 [N, C, resolution, resolution].

    Args:
        name: one of
            "fashion-mnist": the 10,000 test images of Fashion-MNIST, 10 classes, 28x28; above 28
            laid on black 32x32; up to 32;
            "emoji" or "emoji:CATEGORY": 1,911 Noto emoji, or those of a category, of which any beginning that no other
            shares will do, in capitals or not: "emoji:smileys" is named "emoji:Smileys & Emotion". The categories are
            the classes; 64x64; up to 64;
            a folder, searched through, or a zip file (members stored, deflated or LZMA): images of up to 64 MiB and
            64 megapixels, of any shape, mode and orientation. The rules of cropping, resizing and channels are those
            of `gankernels.data.images`. Leading folders that all images share are dropped; if every image then lies
            in a folder, the first folder's name is its label.
        resolution: side in pixels. A source none of whose images is that large is refused; single smaller ones are
            enlarged, and counted in the notes.
        channels: 1, 2, 3 or 4; None means 1 for fashion-mnist and 3 for everything else.

    Raises:
        DataError: unknown or ambiguous name, nothing to read, a resolution that the source lacks, or more than
            MAX_SKIPPED of the files corrupt, truncated, empty or bomb-sized (the message lists them; fewer are listed
            in the notes).
    """
    channels = default_channels(name) if channels is None else channels
    base, _, category = name.partition(":")
    if base in BUNDLED and not (category and base != "emoji"):
        check_format(resolution, channels)
        if base == "fashion-mnist":
            return _fashion_mnist(resolution, channels)
        return _emoji(category, resolution, channels)
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"unknown data {name!r}: neither one of {', '.join(BUNDLED)} nor an existing folder or zip file"
        )
    check_format(resolution, channels)
    if path.is_dir():
        names = _folder_names(path)
        return _decode_all(name, names, lambda entry: read_file(path / entry), resolution, channels)
    with open_zip(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        return _decode_all(name, _images_only(names), lambda entry: read_member(archive, entry), resolution, channels)


def _lacks(name: str, has: int, resolution: int) -> DataError:
    return DataError(
        f"{name} holds images of at most {has}x{has}, so resolution {resolution} would only enlarge them; "
        f"ask for {has} or less"
    )


def _fashion_mnist(resolution: int, channels: int) -> ImageData:
    if resolution > 32:
        raise _lacks("fashion-mnist", 32, resolution)
    folder = _HERE / "fashion-mnist"
    pixels = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    side = 28 if resolution <= 28 else 32
    frame = (side - 28) // 2
    framed = np.pad(pixels.reshape(-1, 28, 28), ((0, 0), (frame, frame), (frame, frame)))
    if resolution == side and channels == 1:
        images = framed[:, None]
    else:
        image_module = need("PIL.Image", "train")
        images = np.stack([to_square(image_module.fromarray(one), resolution, channels) for one in framed])
    return ImageData("fashion-mnist", torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), _FASHION)


def _emoji(category: str, resolution: int, channels: int) -> ImageData:
    if resolution > 64:
        raise _lacks("emoji", 64, resolution)
    entries = json.loads((_HERE / "emoji" / "emoji.json").read_text(encoding="utf-8"))
    categories = tuple(sorted({entry["category"] for entry in entries}))
    chosen = (_category(category, categories),) if category else categories
    name = f"emoji:{chosen[0]}" if category else "emoji"
    entries = [entry for entry in entries if entry["category"] in chosen]
    with need("PIL.Image", "train").open(_HERE / "emoji" / "64.png") as file:
        sheet = file.convert("RGBA")
    tiles = [sheet.crop((66 * e["x"] + 1, 66 * e["y"] + 1, 66 * e["x"] + 65, 66 * e["y"] + 65)) for e in entries]
    images = np.stack([to_square(tile, resolution, channels) for tile in tiles])
    labels = torch.tensor([chosen.index(entry["category"]) for entry in entries])
    return ImageData(name, torch.from_numpy(images), labels, chosen)


def _category(given: str, categories: tuple[str, ...]) -> str:
    """The one category that begins with what is given, in capitals or not."""
    found = [c for c in categories if c.casefold().startswith(given.casefold())]
    whole = [c for c in found if len(c) == len(given)]
    if len(whole or found) == 1:
        return (whole or found)[0]
    if found:
        raise DataError(f"emoji has {len(found)} categories that begin with {given!r}: {', '.join(found)}; write more")
    raise DataError(f"emoji has no category {given!r}; it has {', '.join(categories)}")


def _folder_names(root: Path) -> list[str]:
    def fail(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error

    found = []
    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [(Path(folder) / file).relative_to(root).as_posix() for file in files]
    return _images_only(found)


def _images_only(names: list[str]) -> list[str]:
    """The names that end like an image, without hidden files and the folders that macOS adds to archives, sorted."""
    kept = []
    for name in names:
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        if path.suffix.lower() in SUFFIXES and not hidden:
            kept.append(name)
    return sorted(kept)


def _decode_all(name: str, names: list[str], read: Callable[[str], bytes], resolution: int, channels: int) -> ImageData:
    if not names:
        raise DataError(f"{name} holds no image files (looked for {' '.join(sorted(SUFFIXES))})")
    size = channels * resolution * resolution
    memory = _physical_memory()
    if memory is not None and len(names) * size > memory:
        raise DataError(
            f"{name} holds {len(names)} images, {len(names) * size / 2**30:.0f} GiB at {resolution}x{resolution}, and "
            f"this machine has {memory / 2**30:.0f} GiB: take a lower resolution or fewer images"
        )
    images = np.empty((len(names), channels, resolution, resolution), np.uint8)
    kept: list[str] = []
    skipped: list[Skipped] = []
    enlarged, largest = 0, 0
    # Pillow warns of odd metadata, which is not used here, and of large images, for which MAX_PIXELS is the limit.
    with warnings.catch_warnings(action="ignore"):
        for entry, result in decode_in_order(names, read, resolution, channels):
            if isinstance(result, BadImage):
                skipped.append(Skipped(entry, str(result)))
                continue
            images[len(kept)] = result.pixels
            kept.append(entry)
            enlarged += result.short_side < resolution
            largest = max(largest, result.short_side)
    listed = "\n  ".join(str(one) for one in skipped)
    if len(skipped) > MAX_SKIPPED * len(names):
        raise DataError(
            f"{name}: {len(skipped)} of {len(names)} images cannot be used, over the limit of {MAX_SKIPPED:.0%}; "
            f"mend or remove them:\n  {listed}"
        )
    if enlarged == len(kept):
        raise _lacks(name, largest, resolution)
    notes = []
    if skipped:
        notes.append(f"{name}: skipped {len(skipped)} of {len(names)} images:\n  {listed}")
    if enlarged:
        notes.append(f"{name}: {enlarged} of {len(kept)} images are smaller than {resolution} and were enlarged")
    labels, classes = _labels(kept)
    return ImageData(name, torch.from_numpy(images[: len(kept)]), labels, classes, tuple(notes))


def _labels(names: list[str]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders), max(folders)  # what these two share, all between them share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    if any(len(parts) == shared for parts in folders):
        return None, ()
    own = [parts[shared] for parts in folders]
    classes = tuple(sorted(set(own)))
    index = {label: i for i, label in enumerate(classes)}
    return torch.tensor([index[label] for label in own]), classes


def _physical_memory() -> int | None:
    """Bytes of memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
