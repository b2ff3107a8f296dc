"""Small files that ask for much, and files that are damaged: each is refused within moments, by CheckpointError."""

import collections
import io
import pickle
import struct
import time
import zipfile

import pytest
import torch
from pickle_support import EasyDict, Reduced, _reconstruct_persistent_obj, module, saved, written

from gankernels import _saved
from gankernels._pickles import Machine
from gankernels.convert import convert
from gankernels.errors import CheckpointError, ConfigError, UnsafePickle

pytest.importorskip("safetensors.torch")
DOUBLED = b")" + b"2\x86" * 60  # DUP, TUPLE2: 2^60 tuples as text, 60 in memory


def refused(tmp_path, content, words=None, kind=CheckpointError):
    file = tmp_path / "x.pkl"
    file.write_bytes(content) if isinstance(content, bytes) else written(file, content)
    begun = time.process_time()
    with pytest.raises(kind, match=words) as caught:
        convert(file, tmp_path / "out.safetensors")
    assert time.process_time() - begun < 10
    assert len(str(caught.value)) < 3000
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04" + DOUBLED + b"\x8c\x01x\x93.",
        b"\x80\x02cnumpy\ndtype\n" + DOUBLED + b"\x85R.",
        b"\x80\x02ctorch\ndevice\n" + DOUBLED + b"\x85R.",
        b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n}(X\x04\x00\x00\x00typeX\x05\x00\x00\x00class"
        b"X\x05\x00\x00\x00state}X\x0a\x00\x00\x00class_name" + DOUBLED + b"u\x85R.",
    ],
)
def test_tuples_that_double_are_not_written_out(tmp_path, content):
    refused(tmp_path, content)


def test_the_same_content_given_to_many_calls(tmp_path):
    values = b"(" + b"N" * 100_000 + b"tq\x01"
    calls = b"".join(b"ctorch\nSize\nh\x01\x85R0" for _ in range(20_000))
    with pytest.raises(UnsafePickle, match="again and again"):
        Machine(_saved.DATA).load(io.BytesIO(b"\x80\x02" + values + calls + b"."))


def nested_module(state):
    return Reduced(_reconstruct_persistent_obj, {"type": "class", "class_name": "X", "state": state})


def test_settings_modules_and_names_that_share(tmp_path):
    generator = torch.nn.Module()
    generator.synthesis = torch.nn.Module()
    generator.synthesis.b4 = torch.nn.Module()
    generator.synthesis.b4.register_buffer("const", torch.zeros(2))

    def given(**attributes):
        return {"G_ema": module(generator, "Generator", **attributes)}

    shared = [0] * 900
    for _ in range(3):
        shared = [shared] * 900
    refused(tmp_path, given(_init_kwargs=EasyDict(z_dim=shared)), "more than 10000 entries", UnsafePickle)
    refused(tmp_path, given(_init_kwargs=[1]), "_init_kwargs that are a list")
    refused(tmp_path, given(_init_args=3), "_init_args that are a int")
    refused(tmp_path, given(_init_kwargs=EasyDict(synthesis_kwargs=3)), "synthesis_kwargs that are a int")
    refused(tmp_path, given(_non_persistent_buffers_set=3), "_non_persistent_buffers_set is a int", UnsafePickle)
    refused(tmp_path, given(_init_kwargs=EasyDict(z_dim="x" * 2000)), "more than 1000 characters", UnsafePickle)
    refused(tmp_path, {"G_ema": nested_module({"_buffers": {"x" * 2000: torch.zeros(1)}})}, "longer than", UnsafePickle)
    empty = collections.OrderedDict((f"b{i}", None) for i in range(200))
    inner = nested_module({"_buffers": empty})
    many = nested_module({"_modules": {f"m{i}": inner for i in range(1000)}})
    refused(tmp_path, {"G_ema": many}, "100000 entries in its modules", UnsafePickle)


def test_tensors_that_share_a_storage_become_no_larger(tmp_path):
    flat = torch.zeros(1_000_000)
    # 100 names for the same 4 MB.
    refused(
        tmp_path,
        saved({"g_ema": {f"x{i}": flat.view(1000, 1000) for i in range(100)}}),
        "its tensors would",
        UnsafePickle,
    )
    file = tmp_path / "w.pt"
    file.write_bytes(saved({f"x{i}": flat[i : i + 2] for i in range(100)} | {"all": flat}))
    read, times = _saved._member, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_saved, "_member", lambda *given: times.append(1) or read(*given))
        found = _saved.read_state_dict(file, lambda name: name != "all")
    assert len(times) == 1, "the storage is read once"
    assert set(found) == {f"x{i}" for i in range(100)}


def test_storages_that_say_more_than_there_is(tmp_path):
    """What a storage says is held against the bytes in the file before anything is built of it."""
    content = saved({"g_ema": {"x": torch.zeros(300)}})
    pickled = zipfile.ZipFile(io.BytesIO(content)).read("archive/data.pkl")
    claimed = pickled.replace(b"M\x2c\x01", b"M\xff\xff")
    assert claimed != pickled
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, claimed if name.endswith("data.pkl") else old.read(name))
    refused(tmp_path, stream.getvalue(), "another length than it says")
    # The old format, whose list of storages leaves one out.
    content = saved({"g_ema": {"x": torch.zeros(3), "y": torch.zeros(4)}}, zipped=False)
    refused(tmp_path, content)
    start = content.index(b"]q\x00(X") if b"]q\x00(X" in content else None
    assert start is not None
    end = content.index(b"e.", start) + 2
    refused(tmp_path, content[:start] + b"]." + content[end:], "not those that it names")


def test_a_damaged_or_encrypted_zip(tmp_path):
    content = bytearray(
        saved({"x": torch.arange(300.0), "g_ema": {"conv1.conv.modulation.weight": torch.arange(300.0)}})
    )
    at = content.index(struct.pack("<2f", 7, 8))
    content[at] ^= 1
    file = tmp_path / "w.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w.pt: its numbers are damaged \(Bad CRC-32"):
        _saved.read_state_dict(file)
    whole = bytearray(saved({"x": torch.zeros(3)}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := whole.find(mark, at + 1)) >= 0:
            whole[at + flags] |= 1
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match="encrypted"):
        _saved.read_state_dict(file)


@pytest.mark.parametrize(
    "name",
    ["noises.noise_100000", "noises.noise_20000000000", "noises.noise_9999999999999", "style.².weight", "convs.².x"],
)
def test_layers_beyond_any_network(tmp_path, name):
    refused(tmp_path, saved({"g_ema": {name: torch.zeros(1)}}), "the StyleGAN2 port that is read does not have")


def test_the_file_to_read_stays(tmp_path):
    source = tmp_path / "x.safetensors"
    source.write_bytes(pickle.dumps(1))
    with pytest.raises(ConfigError, match="is the file to read"):
        convert(source, tmp_path / "." / "x.safetensors")
    for out in (tmp_path / "x.pkl", tmp_path / "x"):
        with pytest.raises(ConfigError, match=r"name it \*.safetensors"):
            convert(source, out)
    assert source.read_bytes() == pickle.dumps(1)


def test_what_nobody_thought_of_is_a_refusal_with_its_cause(tmp_path, monkeypatch):
    from gankernels.convert import published

    def broken(content):
        raise ZeroDivisionError

    monkeypatch.setattr(published, "networks", broken)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(CheckpointError, match="ZeroDivisionError") as caught:
        convert(tmp_path / "x.pkl", tmp_path / "out.safetensors")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
