"""What `torch.save` writes, in either of its formats, read without `torch.load` and without `pickle`."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from gankernels._pickles import Calls, Machine, Name
from gankernels._saved_data import DATA, KINDS, Storage, Strided, check_distinct
from gankernels.errors import CheckpointError, UnsafePickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def _as_storage(what: Any) -> tuple[Storage, str]:
    """Of a persistent id ("storage", kind, key, location, count[, view]): the storage and its key."""
    if not isinstance(what, tuple) or len(what) not in (5, 6) or what[0] != "storage" or what[5:] not in ((), (None,)):
        raise UnsafePickle("it refers to something outside itself that is no storage")
    _, kind, where, _, count = what[:5]
    name = kind.name.removesuffix("Storage") if isinstance(kind, Name) and kind.module == "torch" else None
    if name not in KINDS or not isinstance(where, str) or type(count) is not int or count < 0:
        raise UnsafePickle("it has a storage of no known kind, key and length")
    return Storage(KINDS[name], count), where


class _Storages(dict):
    """{key: Storage} of the persistent ids of one pickle."""

    def __call__(self, what: Any) -> Storage:
        storage, where = _as_storage(what)
        known = self.setdefault(where, storage)
        if (known.dtype, known.count) != (storage.dtype, storage.count):
            raise UnsafePickle(f"it has storage {where[:40]} twice, with other lengths or dtypes")
        return known


def read_old(stream: BinaryIO, calls: Calls = DATA) -> Any:
    """What `torch.save` wrote in its old format: five pickles, then the bytes of the storages."""
    start = Machine({})
    if start.load(stream) != _MAGIC or start.load(stream) != _PROTOCOL:
        raise CheckpointError("it does not begin as what torch.save writes")
    about = start.load(stream)
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise CheckpointError("it was written by a big-endian machine, which is not read")
    storages = _Storages()
    content = Machine(calls, storages).load(stream)
    order = start.load(stream)
    named = isinstance(order, list) and all(isinstance(one, str) for one in order)
    if not named or len(order) != len(storages) or set(order) != set(storages):
        raise CheckpointError("its storages are not those that it names")
    begin = stream.tell()
    end = stream.seek(0, io.SEEK_END) or stream.tell()  # mmap.seek returns nothing before Python 3.13
    for storage in map(storages.get, order):
        stream.seek(begin)
        head = stream.read(8)
        begin += 8 + storage.size
        if len(head) != 8 or begin > end or struct.unpack("<q", head)[0] != storage.count:
            raise CheckpointError("a storage is cut short or of another length; the file is truncated")
        storage.read = lambda at=begin - storage.size, size=storage.size: _slice(stream, at, size)
    return content


def _slice(stream: BinaryIO, at: int, size: int) -> bytes:
    stream.seek(at)
    return stream.read(size)


def storage_from_bytes(content: Any) -> Storage:
    """What stands for `torch.storage._load_from_bytes` in pickles of modules: the bytes of one saved storage.

    Only a storage comes out; what it may name is `DATA`, so that it cannot be nested.
    """
    if not isinstance(content, bytes):
        raise UnsafePickle(f"it reads a storage out of a {type(content).__name__}")
    storage = read_old(io.BytesIO(content))
    if not isinstance(storage, Storage):
        raise UnsafePickle(f"it has a {type(storage).__name__} where the bytes of a storage belong")
    return storage


def read_zip(path: Path, calls: Calls = DATA) -> Any:
    """What `torch.save` wrote in its zip format: ``*/data.pkl`` and, not compressed, ``*/data/KEY``."""
    try:
        archive = zipfile.ZipFile(path)
        members = {one.filename: one for one in archive.infolist()}
        (main,) = [name for name in members if name.endswith("/data.pkl")]
        if any(one.compress_type != zipfile.ZIP_STORED for one in members.values()):
            raise UnsafePickle("its members are compressed, which torch.save does not do")
        if sum(one.file_size for one in members.values()) > path.stat().st_size:
            raise UnsafePickle("its members are larger than the file")
        order = members.get(main.replace("data.pkl", "byteorder"))
        if order is not None and archive.read(order) != b"little":
            raise CheckpointError("it was written by a big-endian machine, which is not read")
        storages = _Storages()
        content = Machine(calls, storages).load(io.BytesIO(archive.read(main)))
        for where, storage in storages.items():
            name = main.replace("data.pkl", f"data/{where}")
            if name not in members:
                raise CheckpointError(f"it lacks the storage {where[:40]}; it is truncated")
            if members[name].file_size != storage.size:
                raise CheckpointError(f"storage {where[:40]} has another length than it says; it is truncated")
            storage.read = lambda name=name: _member(archive, name)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"it is truncated or nothing that torch.save wrote ({error})") from error
    return content


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"its numbers are damaged ({error}); take another copy") from error


def read_file(path: Path, calls: Calls = DATA) -> Any:
    """The content of a pickle, or of either format of `torch.save`.

    Raises:
        CheckpointError: missing, truncated, of another kind; UnsafePickle where it asks for more than data.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start == b"PK\x03\x04":
                return read_zip(path, calls)
            if not start:
                raise CheckpointError("it is empty, so truncated")
            stream = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            old = Machine({}).load(stream) == _MAGIC
        except CheckpointError:
            old = False  # some other pickle: read below from its beginning
        stream.seek(0)
        return read_old(stream, calls) if old else Machine(calls).load(stream)
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}; nothing of it was run") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error


def read_state_dict(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of `wanted` names of a state dict that `torch.save` wrote.

    Raises: as `read_file`, and for anything else.
    """
    content = read_file(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    found = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Strided) and wanted(k)}
    try:
        check_distinct(found.values())
        return {name: value.tensor() for name, value in found.items()}
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
