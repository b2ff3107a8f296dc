"""Files of a folder or zip archive to decoded images, with a bounded number of files, bytes and pixels in memory."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from gankernels.data.images import MAX_PIXELS, BadImage, Decoded, decode
from gankernels.errors import DataError

try:
    from lzma import LZMAError
except ImportError:  # a Python built without it, whose zipfile refuses such members by a RuntimeError
    LZMAError = RuntimeError

MAX_FILE_BYTES = 64 * 2**20
"""Files that are larger, packed or unpacked, are skipped."""

_FILES_AT_ONCE = 64
_BYTES_AT_ONCE = 4 * MAX_FILE_BYTES
# How much is read at a time of a member so compressed. zipfile bounds what deflate unpacks to by that; LZMA unpacks all
# it is given, at most 7,000 times as much; of bzip2, which reaches a million times as much, nothing small is harmless.
_STEPS = {zipfile.ZIP_STORED: 2**20, zipfile.ZIP_DEFLATED: 2**20, zipfile.ZIP_LZMA: 2**12}
# What zipfile raises on damaged, encrypted or foreign archives; MemoryError where LZMA asks for a huge window.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, struct.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError, ValueError, MemoryError),
)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Raises DataError where it is no readable zip file."""
    try:
        return zipfile.ZipFile(path)
    except _UNREADABLE as error:
        raise DataError(f"{path} is neither a folder nor a readable zip file ({error})") from error


def read_file(path: Path) -> bytes:
    """The content of a file; raises BadImage where it is unreadable or over MAX_FILE_BYTES."""
    try:
        if not path.is_file():
            raise BadImage("no regular file")
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, 2**20)
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member; raises BadImage where it is unreadable, over MAX_FILE_BYTES or oddly compressed."""
    info = archive.getinfo(name)
    if info.compress_type not in _STEPS:
        raise BadImage(f"cannot be unpacked (compression {info.compress_type}; pack it stored or deflated)")
    try:
        with archive.open(info) as file:
            return _read(file, info.file_size, _STEPS[info.compress_type])
    except BadImage:
        raise
    except _UNREADABLE as error:
        raise BadImage(f"cannot be unpacked ({error})") from error


def _read(file: IO[bytes], stated: int, step: int) -> bytes:
    """All of a file, `step` bytes at a time; neither the size that is stated nor the true one may pass the limit."""
    data = bytearray()
    while stated <= MAX_FILE_BYTES and (part := file.read(step)):
        data += part
        stated = max(stated, len(data))
    if stated > MAX_FILE_BYTES:
        raise BadImage(f"file of over {MAX_FILE_BYTES >> 20} MiB")
    return bytes(data)


class _Room:
    """Lets in as much as fits; what is larger than all of it comes in alone."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def __call__(self, amount: int) -> Iterator[None]:
        amount = min(amount, self.size)
        with self.changed:
            self.changed.wait_for(lambda: self.left >= amount)
            self.left -= amount
        try:
            yield
        finally:
            with self.changed:
                self.left += amount
                self.changed.notify_all()


def decode_in_order(
    names: list[str], read: Callable[[str], bytes], resolution: int, channels: int
) -> Iterator[tuple[str, Decoded | BadImage]]:
    """Each name with its image or why it has none, in the order of the names, decoded on all cores.

    No more than 64 files of 256 MiB together are in memory, and of images being decoded MAX_PIXELS pixels.

    Args:
        read: the bytes of a name; called by the caller's thread alone; may raise BadImage.
    """
    room = _Room(MAX_PIXELS)

    def one(data: bytes) -> Decoded | BadImage:
        try:
            return decode(data, resolution, channels, room)
        except BadImage as error:
            return BadImage(str(error))  # without the frames of the traceback, which hold the data

    waiting: deque[tuple[str, int, Future[Decoded | BadImage]]] = deque()
    held = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for entry in names:
            while len(waiting) == _FILES_AT_ONCE or (waiting and held + MAX_FILE_BYTES > _BYTES_AT_ONCE):
                first, size, result = waiting.popleft()
                yield first, result.result()
                held -= size
            try:
                data = read(entry)
            except BadImage as error:
                waiting.append((entry, 0, pool.submit(BadImage, str(error))))
                continue
            held += len(data)
            waiting.append((entry, len(data), pool.submit(one, data)))
        yield from ((entry, result.result()) for entry, _, result in waiting)
