"""Pickles that want to do harm: each is refused by name, within moments, and nothing that they name happens."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from pickle_support import EasyDict, Reduced, dumped, module, old_format, refused, saved

from gankernels import _saved
from gankernels.convert.published import PUBLISHED
from gankernels.errors import UnsafePickle


@pytest.fixture
def mark(tmp_path):
    """A file that hostile content tries to make."""
    path = tmp_path / "was-run"
    yield path
    assert not path.exists(), "the pickle was obeyed"


def calls(mark):
    """Reductions that make the file `mark` where anybody obeys them."""
    touch = f"open({str(mark)!r}, 'w').close()"
    return {
        "posix.system": Reduced(os.system, f"touch {mark}"),
        "subprocess.Popen": Reduced(subprocess.Popen, ["touch", str(mark)]),
        "builtins.eval": Reduced(eval, touch),
        "builtins.exec": Reduced(exec, touch),
        "builtins.getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "builtins.__import__": Reduced(__import__, "os"),
        "torch.serialization.load": Reduced(torch.load, str(mark)),
        "_pickle.loads": Reduced(pickle.loads, b"cos\nsystem\n."),
        "_io.open": Reduced(open, str(mark), "w"),
        "torch.jit": Reduced(torch.jit.load, str(mark)),
        "numpy": Reduced(np.load, str(mark), None, True),
        "functools.partial": Reduced(__import__("functools").partial, os.system, f"touch {mark}"),
        "operator.attrgetter": Reduced(__import__("operator").attrgetter("system"), os),
    }


NAMES = list(calls("x"))


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused(tmp_path, mark, name, protocol):
    try:
        content = dumped({"G_ema": calls(mark)[name]}, protocol)
    except (TypeError, AttributeError, pickle.PicklingError):
        pytest.skip("Python itself cannot write this")
    refused(tmp_path, content, "it names", "nothing of it was run")


@pytest.mark.parametrize("where", ["state", "_parameters", "_buffers", "_modules", "_init_kwargs", "meta", "key"])
def test_calls_are_refused_wherever_they_stand(tmp_path, mark, where):
    harm = Reduced(os.system, f"touch {mark}")
    net = module(torch.nn.Linear(2, 2), _init_kwargs=EasyDict())
    meta = net.call[1][0]
    place = {"state": meta["state"], "meta": meta}.get(where, meta["state"].get(where))
    if where == "key":
        place = None
        meta["state"][harm] = 1
    else:
        place["harm"] = harm
    refused(tmp_path, dumped({"G_ema": net}), "posix.system")


def nested(content: bytes) -> bytes:
    """A tensor whose storage is what torch.storage._load_from_bytes makes of `content`."""
    load = torch.storage._load_from_bytes
    tensor = Reduced(torch._utils._rebuild_tensor_v2, Reduced(load, content), 0, (1,), (1,), False, {})
    return dumped({"G_ema": tensor})


def test_what_load_from_bytes_is_given_is_data_too(tmp_path, mark):
    harm = Reduced(os.system, f"touch {mark}")
    for protocol in (0, 2, 4):
        refused(tmp_path, nested(old_format(pickle.dumps(harm, protocol))), "posix.system")
    refused(tmp_path, nested(saved({"x": harm}, zipped=False)), "posix.system")
    refused(tmp_path, nested(saved({"x": harm}, zipped=True)), unsafe=False)
    deeper = Reduced(torch.storage._load_from_bytes, old_format(pickle.dumps(harm)))
    refused(tmp_path, nested(old_format(pickle.dumps(deeper))), "torch.storage._load_from_bytes")
    refused(tmp_path, nested(saved({"x": 1}, False)), "where the bytes of a storage belong")
    refused(tmp_path, nested(pickle.dumps(harm)), unsafe=True)
    refused(tmp_path, nested(b""), "truncated", unsafe=False)
    refused(tmp_path, dumped({"G": Reduced(torch.storage._load_from_bytes, "text")}), "out of a str")


def test_load_from_bytes_is_not_in_what_files_of_tensors_may_name(tmp_path, mark):
    assert "torch.storage._load_from_bytes" not in _saved.DATA
    harm = Reduced(torch.storage._load_from_bytes, old_format(pickle.dumps(Reduced(os.system, f"touch {mark}"))))
    for zipped in (True, False):
        (tmp_path / "x.pt").write_bytes(saved({"g_ema": harm}, zipped))
        with pytest.raises(UnsafePickle):
            _saved.read_file(tmp_path / "x.pt")


def test_every_name_in_the_table_is_ours_or_inert():
    """What stands for a name is a function or class of this package: nothing of it is imported for the pickle."""
    for name, call in PUBLISHED.items():
        assert call is None or call.__module__.startswith("gankernels."), name


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'x'\no.", "os.system"),
        (b"(I1\nI2\no.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"\x80\x02I1\nQ.", "outside itself"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04\x8c\x05torch\x8c\x06system\x93.", "torch.system"),
        (b"\x80\x04\x8c\x05torch\x8c\x09nn.Linear\x93.", "torch.nn.Linear"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04I1\nI2\n\x93.", "int.int"),
        (b"\x80\x04I1\n)R.", "calls a int"),
        (b"\x80\x04ccollections\nOrderedDict\nI1\nR.", "calls a Name"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "nothing to call"),
        (b"\x80\x02cnumpy\ndtype\n)R.", "other arguments"),
        (b"\x80\x02]}b.", "sets the state of a list"),
        (b"\x80\x02}(]I1\nu.", "a list is a key"),
        (b"\x80\x02}I1\na.", "appends to a dict"),
        (b"\x80\x02]I1\nI2\ns.", "sets items of a list"),
        (b"\x80\x04](I1\n\x90.", "adds to a list"),
    ],
)
def test_instructions_that_data_does_not_need(tmp_path, mark, content, word):
    refused(tmp_path, content, word)


def test_tensorflow_pickles_are_named(tmp_path):
    content = b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81."
    refused(tmp_path, content, "TensorFlow", unsafe=False)


def test_nothing_is_imported(tmp_path):
    """Not even a module that a name would bring: a process that reads such a file has not what the file names."""
    file = tmp_path / "x.pkl"
    file.write_bytes(b"\x80\x02cantigravity\nfly\n)R.")
    code = f"""
import sys
from pathlib import Path
from gankernels._saved import read_file
from gankernels.errors import UnsafePickle
try:
    read_file(Path({str(file)!r}))
except UnsafePickle as error:
    assert 'antigravity.fly' in str(error)
else:
    raise AssertionError('it was read')
assert 'antigravity' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
