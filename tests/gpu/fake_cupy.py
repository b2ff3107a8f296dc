"""CuPy with a GPU that is not there: what is loaded and launched is recorded and handed to a function."""

import contextlib
import types

import numpy as np
import pytest

from gankernels import _nvrtc


@pytest.fixture(name="real_cupy")
def real_cupy_(monkeypatch, tmp_path):
    """CuPy itself, and an empty cache."""
    cupy = pytest.importorskip("cupy")
    if not _nvrtc.wheel_file("lib/libnvrtc.so.*"):
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
    monkeypatch.setenv("GANKERNELS_CACHE", str(tmp_path / "cache"))
    _nvrtc._temporary.cache_clear()
    yield cupy
    _nvrtc._temporary.cache_clear()


class Kernel:
    """cupy.RawKernel."""

    def __init__(self, gpu, path, symbol):
        self.gpu, self.path, self.symbol = gpu, path, symbol

    def __setattr__(self, name, value):
        if name == "max_dynamic_shared_size_bytes":
            self.gpu.shared.append(value)
        super().__setattr__(name, value)

    def __call__(self, grid, block, args, *, shared_mem):
        (params,) = args
        assert isinstance(params, np.ndarray)
        assert params.size == 1  # what CuPy passes by value
        launch = (self.path, self.symbol, grid, block, params.tobytes(), shared_mem)
        self.gpu.launches.append((*launch, self.gpu.devices[-1], self.gpu.streams[-1]))
        self.gpu.execute(*launch)


class Gpu:
    """`cupy` is the module; `execute(path, symbol, grid, block, params, shared)` is what a launch does."""

    def __init__(self, real, capability, execute):
        self.execute = execute
        self.devices, self.streams, self.launches, self.shared = [], ["null"], [], []
        gpu = self

        class Device(contextlib.AbstractContextManager):
            compute_capability = capability

            def __init__(self, number):
                self.number = number

            def __enter__(self):
                gpu.devices.append(self.number)

            def __exit__(self, *_):
                gpu.devices.pop()

        @contextlib.contextmanager
        def stream(address, device):
            gpu.streams.append((address, device))
            yield
            gpu.streams.pop()

        cuda = types.SimpleNamespace(
            nvrtc=real.cuda.nvrtc,
            Device=Device,
            ExternalStream=stream,
            Stream=types.SimpleNamespace(null=contextlib.nullcontext()),
            get_cuda_path=lambda: None,
        )
        self.cupy = types.SimpleNamespace(cuda=cuda, RawModule=self._module, __version__=real.__version__)

    def _module(self, *, path):
        return types.SimpleNamespace(get_function=lambda symbol: Kernel(self, path, symbol))
