"""Images held in memory as bytes, and the order in which training sees them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from gankernels.errors import DataError


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    Attributes:
        name: as it was asked for.
        images: uint8 [N, C, R, R].
        labels: int64 [N], indices into class_names, or None.
        class_names: one name a class; empty without labels.
        notes: sentences about what was skipped or enlarged while reading.
    """

    name: str
    images: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[2] != shape[3] or shape[0] == 0:
            raise DataError(
                f"images must be uint8 [N, C, R, R] with N >= 1, got {self.images.dtype} {list(shape)} for {self.name}"
            )
        if self.labels is not None and self.labels.shape != (shape[0],):
            raise DataError(f"labels must be [{shape[0]}], got {list(self.labels.shape)} for {self.name}")

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def resolution(self) -> int:
        return self.images.shape[2]

    def batch(self, indices: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """float32 [n, C, R, R] in [-1, 1] (byte b is b / 127.5 - 1) of the images at int64 indices [n].

        mirrored is bool [n]: those images are flipped left to right.
        """
        pixels = self.images[indices]
        if mirrored is not None:
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return pixels.to(torch.float32).div_(127.5).sub_(1)

    def digest(self) -> str:
        """A hash of shape, pixels and labels: the same data gives the same digest on any machine."""
        hashed = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=16)
        hashed.update(self.images.contiguous().numpy())
        if self.labels is not None:
            hashed.update(self.labels.contiguous().numpy())
        return hashed.hexdigest()


class Sampler:
    """Endless order over `size` items: every epoch is one permutation, known from (seed, epoch) alone.

    Its whole state is a cursor (epoch, position), so a run goes on in the middle of an epoch. A batch that reaches the
    end of an epoch is filled from the next; no item is left out.
    """

    def __init__(self, size: int, seed: int, *, mirror: bool = False, epoch: int = 0, position: int = 0) -> None:
        if size < 1:
            raise DataError(f"size must be at least 1, got {size}")
        if not 0 <= position < size or epoch < 0:
            raise DataError(f"cursor must be epoch >= 0 and 0 <= position < {size}, got {epoch} and {position}")
        self.size, self.seed, self.mirror = size, seed, mirror
        self.epoch, self.position = epoch, position
        self._shuffle()

    def _shuffle(self) -> None:
        generator = keyed_generator("epoch", self.seed, self.epoch)
        self._order = torch.randperm(self.size, generator=generator)
        self._flips = torch.randint(2, (self.size,), generator=generator).bool() if self.mirror else None

    def state(self) -> dict[str, int]:
        """The cursor, as the keyword arguments that put a new sampler in this place."""
        return {"epoch": self.epoch, "position": self.position}

    def next(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The next int64 [count] indices, and bool [count] of those to mirror (None without mirroring)."""
        indices, flips = [], []
        while count > 0:
            stop = min(self.position + count, self.size)
            indices.append(self._order[self.position : stop])
            if self._flips is not None:
                flips.append(self._flips[self.position : stop])
            count -= stop - self.position
            self.position = stop
            if stop == self.size:
                self.epoch, self.position = self.epoch + 1, 0
                self._shuffle()
        return torch.cat(indices), torch.cat(flips) if flips else None


def keyed_generator(purpose: str, seed: int, step: int = 0) -> torch.Generator:
    """A CPU generator whose draws depend on (purpose, seed, step) alone, never on what was drawn before."""
    key = hashlib.blake2b(f"{purpose}/{seed}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
