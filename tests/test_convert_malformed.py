"""Pickles that lie about what they hold, or were cut off: each is refused by name, within moments and little memory."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from pickle_support import (
    EasyDict,
    Reduced,
    _reconstruct_persistent_obj,
    dumped,
    module,
    old_format,
    refused,
    saved,
)

from gankernels import _saved
from gankernels.cli import main
from gankernels.convert import convert
from gankernels.errors import CheckpointError, UnsafePickle


def storage(count, tail=b"", kind="FloatStorage", key="0") -> bytes:
    """Bytes of a saved storage that says it holds `count` numbers."""
    main = f"\x80\x02(X\x07\x00\x00\x00storagectorch\n{kind}\nX\x01\x00\x00\x00{key}".encode("latin1")
    main += b"X\x03\x00\x00\x00cpuL" + str(count).encode() + b"L\nNtQ."
    return old_format(main, b"]X\x01\x00\x00\x000a.", struct.pack("<q", min(count, 2**62)) + tail)


def tensor(content, offset, shape, stride):
    load = Reduced(torch.storage._load_from_bytes, content)
    return dumped({"G_ema": Reduced(torch._utils._rebuild_tensor_v2, load, offset, shape, stride, False, {})})


def test_huge_allocations(tmp_path):
    four = storage(4, bytes(16))
    assert _saved.storage_from_bytes(four).numbers().tolist() == [0] * 4
    for content in (storage(10**15), storage(10**15, kind="ByteStorage"), storage(2**60), storage(5, bytes(16))):
        refused(tmp_path, tensor(content, 0, (1,), (1,)), "truncated", unsafe=False)
    refused(tmp_path, tensor(storage(-1), 0, (1,), (1,)), unsafe=True)
    for offset, shape, stride in (
        (0, (10**12,), (0,)), (0, (10**6, 10**6), (0, 0)), (0, (5,), (1,)), (3, (2,), (1,)), (0, (2, 2), (4, 1)),
        (-1, (1,), (1,)), (0, (-1,), (1,)), (0, (2,), (-1,)), (0, (2**63,), (1,)), (0, (1.0,), (1,)), (0, [1], [1]),
        (0, (1,) * 20, (1,) * 20), (True, (1,), (1,)), (0, (1, 1), (1,)),
    ):  # fmt: skip
        refused(tmp_path, tensor(four, offset, shape, stride), "tensor")
    # Lengths of strings, of numbers and places in the memo that say more than there is.
    for text in (
        b"\x8e" + struct.pack("<Q", 2**40), b"\x8d" + struct.pack("<Q", 2**40), b"B" + struct.pack("<I", 2**32 - 1),
        b"\x8b" + struct.pack("<i", 2**31 - 1), b"\x8b" + struct.pack("<i", -5), b"L" + b"9" * 5000 + b"L\n",
    ):  # fmt: skip
        refused(tmp_path, b"\x80\x04" + text + b".", "truncated or no pickle", unsafe=False)
    refused(tmp_path, b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b".", "a NoneType", unsafe=False)


def test_arrays_and_numbers(tmp_path):
    """NumPy's are read where they are plain, and nowhere else."""
    from gankernels._pickles import Machine

    values = {
        "a": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "n": np.float64(2.5),
    }
    values |= {"i": np.int32(7), "big": np.arange(3, dtype=">i4"), "b": np.bool_(True)}
    for protocol in (2, 3, 4):
        found = Machine(_saved.DATA).load(io.BytesIO(pickle.dumps(values, protocol)))
        for name in ("a", "f", "big"):
            np.testing.assert_array_equal(found[name].value, values[name])
        assert (found["n"], found["i"], found["b"]) == (2.5, 7, True)
    refused(tmp_path, pickle.dumps({"x": np.array([os.system], object)}), "dtype 'O8'")
    refused(tmp_path, pickle.dumps({"x": np.array(["text"])}), "dtype 'U4'")
    wrong = pickle.dumps(np.zeros(4, np.uint8), 3).replace(b"K\x04\x85", b"K\x05\x85")
    refused(tmp_path, wrong, "not those of its shape")


def test_recursion(tmp_path):
    deep = 40_000
    refused(tmp_path, b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b".", "a list", unsafe=False)
    refused(tmp_path, b"\x80\x02)" + b"\x85" * deep + b".", "a tuple", unsafe=False)
    refused(tmp_path, b"\x80\x02})" + b"\x85" * deep + b"Ns.", "a tuple is a key")
    itself = {}
    itself["G_ema"] = itself
    refused(tmp_path, dumped(itself), "no network G_ema", unsafe=False)
    # A module that contains itself, put into the dict that it was made of.
    loop = b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n}("
    loop += b"X\x04\x00\x00\x00typeX\x05\x00\x00\x00classX\x0a\x00\x00\x00class_nameX\x01\x00\x00\x00X"
    loop += b"X\x05\x00\x00\x00state}X\x08\x00\x00\x00_modules}q\x01su\x85Rq\x02"
    loop += b"h\x01X\x01\x00\x00\x00ah\x02s0q\x030}X\x05\x00\x00\x00G_emah\x02s."
    refused(tmp_path, loop, "nests more than 32 modules deep")


def test_modules_that_multiply(tmp_path):
    """Each level holds the level below twice: 2^30 modules in a kilobyte."""
    part = {"type": "class", "class_name": "X", "state": {}}
    for _ in range(30):
        one = Reduced(_reconstruct_persistent_obj, part)
        part = {"type": "class", "class_name": "X", "state": {"_modules": {"a": one, "b": one}}}
    refused(tmp_path, dumped({"G_ema": Reduced(_reconstruct_persistent_obj, part)}), "10000 in all")


def test_modules_that_are_described_wrongly(tmp_path):
    for meta in ({}, {"type": "class"}, {"type": "function", "state": {}}, {"type": "class", "state": 3}, 5):
        refused(tmp_path, dumped({"G_ema": Reduced(_reconstruct_persistent_obj, meta)}), "module")
    base = {"type": "class", "class_name": "X"}
    for state in ({"_modules": {"a": 3}}, {"_modules": 3}, {"_parameters": {"a": "text"}}):
        refused(tmp_path, dumped({"G_ema": Reduced(_reconstruct_persistent_obj, base | {"state": state})}))


@pytest.fixture(scope="module")
def whole():
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    return dumped({"G_ema": module(net, "Generator", _init_kwargs=EasyDict(z_dim=3))})


def test_truncated(tmp_path, whole, capsys):
    """At every 37th byte, and empty: refused, whatever the reason, with no other exception."""
    for cut in range(0, len(whole), 37):
        refused(tmp_path, whole[:cut], unsafe=False)
    assert main(["convert", str(tmp_path / "hostile.pkl"), str(tmp_path / "out.safetensors")]) == 2
    assert "truncated" in capsys.readouterr().err
    for zipped in (True, False):
        content = saved({"g_ema": {"x": torch.zeros(30)}}, zipped)
        for cut in range(1, len(content), 61):
            file = tmp_path / "cut.pt"
            file.write_bytes(content[:cut])
            with pytest.raises(CheckpointError):
                convert(file, tmp_path / "out.safetensors")


def test_spoiled(tmp_path, whole):
    """Any byte changed: read or refused, and nothing else."""
    generator = np.random.default_rng(0)
    for _ in range(400):
        content = bytearray(whole)
        for at in generator.integers(0, len(content), generator.integers(1, 4)):
            content[at] = generator.integers(256)
        file = tmp_path / "spoiled.pkl"
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            convert(file, tmp_path / "out.safetensors")


def test_zip_bombs(tmp_path):
    content = io.BytesIO(saved({"g_ema": {"x": torch.zeros(300_000)}}))
    file = tmp_path / "bomb.pt"
    with zipfile.ZipFile(content) as given, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in given.namelist():
            bomb.writestr(name, given.read(name))
    with pytest.raises(UnsafePickle, match="compressed"):
        convert(file, tmp_path / "out.safetensors")
    whole = bytearray(saved({"g_ema": {"x": torch.zeros(300)}}))
    at = whole.index(b"PK\x01\x02")
    whole[at + 24 : at + 28] = struct.pack("<I", 2**31)
    file.write_bytes(whole)
    with pytest.raises(CheckpointError):
        convert(file, tmp_path / "out.safetensors")


def test_ordinary_containers_come_through():
    from gankernels._pickles import Machine

    content = {"list": [1, [2.5, None]], "tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "set": {1, "a"}}
    content |= {"frozen": frozenset([2]), "bytes": b"ab" * 200, "text": "é" * 300, "big": 2**100, "minus": -(2**70)}
    content |= {"ordered": collections.OrderedDict(a=1), "size": torch.Size([2, 3]), "yes": True, 3: False, "c": 70000}
    for protocol in range(5):
        found = Machine(_saved.DATA).load(io.BytesIO(pickle.dumps(content, protocol)))
        assert found == content | {"size": (2, 3)}
