"""Runs the launches of an extension that was built without nvcc: CuPy compiles a kernel at its first and launches it.

The C++ side plans a launch (csrc/cuda/launch.h) and calls `Runner.callback`; tensors never come here, only addresses
in the params struct.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from gankernels import _nvrtc

STATIC_SHARED_BYTES = 48 * 1024
"""Dynamic shared memory that a kernel has without asking for it."""


class Launch(ctypes.Structure):
    """gk::Launch of csrc/cuda/launch.h."""

    _fields_ = [
        ("kernel", ctypes.c_char * 256),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("params_bytes", ctypes.c_uint32),
        ("params", ctypes.c_ubyte * 1024),
    ]


class Launcher(ctypes.Structure):
    """gk::Launcher."""


Run = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Launcher), ctypes.POINTER(Launch))
Launcher._fields_ = [("run", Run), ("stream", ctypes.c_void_p), ("op", ctypes.c_char_p), ("device", ctypes.c_longlong)]


class Runner:
    """Launches through CuPy, on the GPU and the stream that the binding names."""

    def __init__(self) -> None:
        self.callback = Run(self._called)
        self._kernels: dict[tuple[int, bytes, bytes], Any] = {}
        self._shared: dict[tuple[int, bytes, bytes], int] = {}
        self._loading = threading.Lock()
        self._errors = threading.local()

    @property
    def address(self) -> int:
        """Of the C function that the extension calls. The runner must outlive its use."""
        return ctypes.cast(self.callback, ctypes.c_void_p).value

    def _called(self, launcher: Any, launch: Any) -> int | None:
        try:
            self.launch(launcher.contents, launch.contents)
        except BaseException as error:  # nothing may cross the C++ frames: the binding raises the text
            text = f"{type(error).__name__}: {error}".encode()
            self._errors.last = ctypes.create_string_buffer(text)  # lives until this thread's next
            return ctypes.addressof(self._errors.last)
        return None

    def launch(self, launcher: Launcher, launch: Launch) -> None:
        """Enqueue one launch; an empty grid is none."""
        grid = tuple(launch.grid)
        if 0 in grid:
            return
        cuda = _nvrtc.cupy().cuda
        key = (launcher.device, launcher.op, launch.kernel)
        stream = cuda.ExternalStream(launcher.stream, launcher.device) if launcher.stream else cuda.Stream.null
        # One argument: the struct, which CuPy passes by value as an array of one element.
        params = np.ndarray((1,), np.dtype((np.void, launch.params_bytes)), launch.params)
        with cuda.Device(launcher.device), stream:
            kernel = self._kernels.get(key) or self._load(key)
            if launch.shared_bytes > self._shared.get(key, STATIC_SHARED_BYTES):
                kernel.max_dynamic_shared_size_bytes = launch.shared_bytes
                self._shared[key] = launch.shared_bytes
            kernel(grid, tuple(launch.block), (params,), shared_mem=launch.shared_bytes)

    def _load(self, key: tuple[int, bytes, bytes]) -> Any:
        """The kernel on a GPU, compiled if it was never: once, whichever threads ask."""
        device, op, name = key
        with self._loading:
            if key not in self._kernels:
                cupy = _nvrtc.cupy()
                compiled = _nvrtc.compile(op.decode(), name.decode(), cupy.cuda.Device(device).compute_capability)
                self._kernels[key] = cupy.RawModule(path=str(compiled.path)).get_function(compiled.symbol)
            return self._kernels[key]


runner = Runner()
