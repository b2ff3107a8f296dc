"""Backends "triton" and "cuda" on CPU tensors: context managers, and pytest fixtures over them."""

import contextlib
import ctypes
import importlib

import pytest
import torch

from gankernels import _backend

from . import nvrtc, paths
from .cuda import Bridge
from .log import Log
from .triton_device import ptx_device


@contextlib.contextmanager
def accepting(name):
    """Lets the backend picker take CPU tensors for a GPU backend."""
    added = name not in _backend.emulated
    _backend.emulated.add(name)
    try:
        yield
    finally:
        if added:
            _backend.emulated.discard(name)


@contextlib.contextmanager
def triton_device(cc=80, configs="one", check=True):
    """`gankernels.backend("triton")` runs CPU tensors inside; yields the log of launches. See `ptx_device`."""
    with ptx_device(cc, configs, check) as log, accepting("triton"):
        yield log


def cuda_operators(namespace="gankernels_native"):
    """The overloads of a namespace that have a CUDA kernel registered."""
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    overloads = []
    for name in sorted(n for n in names if n.startswith(f"{namespace}::")):
        operator, _, overload = name.removeprefix(f"{namespace}::").partition(".")
        overloads.append(getattr(getattr(getattr(torch.ops, namespace), operator), overload or "default"))
    return overloads


@contextlib.contextmanager
def redirected(namespace="gankernels_native"):
    """Inside, the CPU dispatch of every operator with a CUDA kernel goes to that kernel."""
    library = torch.library.Library(namespace, "IMPL")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    try:
        for overload in cuda_operators(namespace):

            def to_cuda(*args, overload=overload, **kwargs):
                return overload.redispatch(keys, *args, **kwargs)

            library.impl(overload._schema.name.partition("::")[2], to_cuda, "CPU", allow_override=True)
        yield
    finally:
        library._destroy()


@contextlib.contextmanager
def cuda_device(cc=80, check=True, extension=None, folder=paths.CSRC / "cuda"):
    """`gankernels.backend("cuda")` runs CPU tensors inside: the compiled bindings and autograd, the entries and the
    kernels are the real ones, up to the launch, which the emulator takes. Yields the log of launches.

    `extension` is the path of the compiled bindings, by default that of gankernels._C; `folder` holds the sources.
    """
    if reason := nvrtc.missing():
        raise ModuleNotFoundError(reason)
    log = Log()
    library = ctypes.CDLL(extension or importlib.import_module("gankernels._C").__file__)
    bridge = Bridge(cc, log, check, folder)
    library.gk_set_emulator(ctypes.byref(bridge.hooks))
    try:
        with redirected(), accepting("cuda"):
            yield log
    finally:
        library.gk_set_emulator(None)


TARGETS = (80, 90)


@pytest.fixture(params=TARGETS, ids=lambda cc: f"sm_{cc}")
def triton_gpu(request):
    """The Triton backend on an emulated GPU, once a target; the value is the log of launches."""
    with triton_device(request.param) as log:
        yield log


@pytest.fixture(params=TARGETS, ids=lambda cc: f"sm_{cc}")
def cuda_gpu(request):
    """The CUDA backend on an emulated GPU, once a target; the value is the log of launches."""
    if reason := nvrtc.missing():
        pytest.skip(reason)
    with cuda_device(request.param) as log:
        yield log
