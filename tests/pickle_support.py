"""Pickles as published networks are kept in, written by hand, and pickles that want to do harm."""

import collections
import io
import pickle
import sys
import time
import tracemalloc
import types

import pytest
import torch
from torch import nn

from gankernels.convert import convert
from gankernels.errors import CheckpointError, UnsafePickle

SOURCE = "import os\nos.system('touch /tmp/gankernels-was-run')\n"
"""What stands as `module_src` in our pickles: text that nobody runs."""


class EasyDict(dict):
    """Under the name of the published code's dict."""


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta):
    raise AssertionError("reading a pickle called what it names")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Reduced:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Names:
    """While it lasts, modules exist by whose names pickles can be written."""

    def __enter__(self):
        persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
        persistence._reconstruct_persistent_obj, util.EasyDict = _reconstruct_persistent_obj, EasyDict
        self.made = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
        self.made |= {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.util": util}
        sys.modules.update(self.made)

    def __exit__(self, *_):
        for name in self.made:
            sys.modules.pop(name)


def module(net: nn.Module, class_name: str = "Module", **attributes) -> Reduced:
    """`net` and what it contains as persistent objects; parameters, buffers and attributes as in the published form."""
    state = {"training": False, "_parameters": collections.OrderedDict(net._parameters)}
    state["_buffers"] = collections.OrderedDict(net._buffers)
    state["_non_persistent_buffers_set"] = set(net._non_persistent_buffers_set)
    children = {n: None if m is None else module(m, type(m).__name__) for n, m in net._modules.items()}
    state["_modules"] = collections.OrderedDict(children)
    state |= {"_backward_hooks": collections.OrderedDict(), **attributes}
    meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state}
    return Reduced(_reconstruct_persistent_obj, meta)


def written(path, content, protocol=4):
    with Names():
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def published(path, g_ema, g, d, g_kwargs, d_kwargs, protocol=4):
    """A file of networks as they are published; `*_kwargs` are the arguments that their constructors were given."""
    content = {
        "G": module(g, "Generator", _init_args=(), _init_kwargs=EasyDict(g_kwargs)),
        "D": module(d, "Discriminator", _init_args=(), _init_kwargs=EasyDict(d_kwargs)),
        "G_ema": module(g_ema, "Generator", _init_args=(), _init_kwargs=EasyDict(g_kwargs)),
        "augment_pipe": None,
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", path="images.zip"),
    }
    return written(path, content, protocol)


def saved(content, zipped=True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def dumped(content, protocol=4):
    with Names():
        return pickle.dumps(content, protocol=protocol)


def refused(tmp_path, content: bytes, *words, unsafe=True):
    file = tmp_path / "hostile.pkl"
    file.write_bytes(content)
    begun = time.monotonic()
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        convert(file, tmp_path / "out.safetensors")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - begun < 20
    assert most < 20 * len(content) + 8_000_000
    assert isinstance(caught.value, UnsafePickle) is unsafe, caught.value
    for word in (str(file), *words):
        assert word in str(caught.value), caught.value
    assert not (tmp_path / "out.safetensors").exists()


def old_format(main: bytes, keys=b"]q\x00.", tail=b"") -> bytes:
    """What torch.save wrote once, around a hand-made main pickle."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    sizes = {"short": 2, "int": 4, "long": 4}
    head += pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}, 2)
    return head + main + keys + tail
