"""CUDA kernels on CPU tensors: an operator's own entry plans a launch, NVRTC compiles it, the emulator runs it."""

import ctypes
from pathlib import Path

import torch

from gankernels._launch import Launcher, Run

from . import host, nvrtc, paths, ptx
from .log import Log, Record
from .tensors import TensorMemory

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class Executor:
    """Runs gk::Launch structures against a TensorMemory."""

    def __init__(self, source, includes, kernels, cc, log, check=True):
        self.source, self.includes, self.kernels = Path(source), tuple(includes), kernels
        self.cc, self.log, self.check = cc, log, check

    def __call__(self, launch, memory):
        """Executes one launch on the memory's tensors and records it."""
        name = launch.kernel.decode()
        if name not in self.kernels:
            raise KeyError(f"`{name}` is not in the kernel list of {self.source.name}: {', '.join(self.kernels)}")
        grid, block = tuple(launch.grid), tuple(launch.block)
        if 0 in grid:
            return
        compiled = nvrtc.compile(self.source, name, f"compute_{self.cc}", self.includes)
        kernel = ptx.parse(compiled.ptx, compiled.symbol)
        params = bytes(launch.params)[: launch.params_bytes]
        if [nbytes for _, nbytes, _ in kernel.params] != [len(params)]:
            raise TypeError(
                f"{name} takes parameters of {[p[1] for p in kernel.params]} bytes, its entry packs {len(params)}"
            )
        run = ptx.launch(
            kernel, grid, block, [params], memory.arena, shared_bytes=launch.shared_bytes, check=self.check
        )
        memory.write_back()
        self.log.add(Record(name, compiled, grid, {"block": block, "shared_bytes": launch.shared_bytes}, run))


class Native:
    """The entries of one operator as callables on CPU tensors: what `_backend.native_cuda(op)` is under test.

    `log` collects the launches. Faults of the kernels raise `gpu.ptx.Fault`s, errors of an entry RuntimeError.
    """

    def __init__(self, op, cc=80, log=None, folder=paths.CSRC / "cuda", check=True):
        includes = (paths.CSRC, paths.CSRC / "cuda")
        self.op, self.log = op, Log() if log is None else log
        self._host = host.build(Path(folder) / f"{op}_entries.cpp", includes)
        self._execute = Executor(Path(folder) / f"{op}.cuh", includes, self._host.kernels, cc, self.log, check)

    @property
    def kernels(self):
        """Every instantiation in the operator's kernel list."""
        return tuple(self._host.kernels)

    def __getattr__(self, entry):
        if entry.startswith("_") or entry not in self._host.entries:
            raise AttributeError(f"{self.op} has no entry {entry}; it has {', '.join(self._host.entries)}")
        return lambda *args, **named: self._call(entry, args, named)

    def _call(self, entry, args, named):
        parameters = self._host.entries[entry]
        names = [name for name, _ in parameters]
        values = dict(zip(names, args, strict=False)) | named
        if len(args) > len(names) or set(values) != set(names) or len(args) + len(named) != len(names):
            raise TypeError(f"{entry}({', '.join(names)}): got {len(args)} arguments and {sorted(named)}")
        memory = TensorMemory()
        converted = [_convert(memory, f"{entry}: {name}", kind, values[name]) for name, kind in parameters]
        failure = []
        message = ctypes.create_string_buffer(b"a launch failed")

        def run(_, launch):
            try:
                self._execute(launch.contents, memory)
            except Exception as error:  # it may not cross the C frames: kept, and raised below
                failure.append(error)
                return ctypes.addressof(message)
            return None

        launcher = Launcher(Run(run), None, self.op.encode(), 0)
        error = getattr(self._host.library, entry)(*converted, ctypes.byref(launcher))
        if failure:
            raise failure[0]
        if error is not None:
            raise RuntimeError(error.decode())


def _convert(memory, name, kind, value):
    """A Python argument as the C one of an entry."""
    if kind == "pointer" and (value is None or isinstance(value, torch.Tensor)):
        return ctypes.c_void_p(None if value is None else memory.address(value, name))
    if kind == "integer" and isinstance(value, int):
        return ctypes.c_longlong(value)
    if kind == "real" and isinstance(value, int | float):
        return ctypes.c_double(value)
    if kind == "list" and not isinstance(value, torch.Tensor):
        return (ctypes.c_longlong * len(value))(*value)
    raise TypeError(f"{name}: got {type(value).__name__}, expected {kind}")


class Bridge:
    """The other end of `gk::Emulator` (csrc/cuda/device.h): where the launches of compiled bindings land."""

    def __init__(self, cc, log, check=True, folder=paths.CSRC / "cuda"):
        self.cc, self.log, self.check, self.folder = cc, log, check, Path(folder)
        self.error = None
        self._op = self._memory = None
        self._message = ctypes.create_string_buffer(4096)
        self._run = Run(self._on_run)
        self._begin, self._address = host.Begin(self._on_begin), host.Address(self._on_address)
        self.hooks = host.Emulator(self._begin, self._address, self._run)

    def _on_begin(self, op):
        self._op, self._memory = op.decode(), TensorMemory()

    def _on_address(self, storage, nbytes, start, item, dims, sizes, strides):
        shape, steps = sizes[:dims], [item * stride for stride in strides[:dims]]
        return self._memory.address_of(storage, nbytes, start, item, shape, steps, f"{self._op} tensor {tuple(shape)}")

    def _on_run(self, _, launch):
        try:
            self._executor(self._op)(launch.contents, self._memory)
        except Exception as error:  # it may not cross the C++ frames: the entry returns it as text
            self._message.value = f"{type(error).__name__}: {error}".encode()[:4095]
            return ctypes.addressof(self._message)
        return None

    def _executor(self, op):
        includes = (paths.CSRC, paths.CSRC / "cuda")
        kernels = host.build(self.folder / f"{op}_entries.cpp", includes).kernels
        return Executor(self.folder / f"{op}.cuh", includes, kernels, self.cc, self.log, self.check)
