"""A Triton "device" on the CPU: launches with CPU tensors compile for a real target and run in the emulator."""

import contextlib
import os

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.errors import OutOfResources

from . import ptx
from .autotune import tuning
from .log import Log, Record
from .tensors import TensorMemory

# Bytes of shared memory that a block may opt in to.
SHARED_LIMIT = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376, "gfx942": 65536}
EMULATED = (75, 80, 86, 89, 90)

# wgmma and tcgen05 have no emulation: Hopper and Blackwell kernels compile to their mma.sync form.
ENVIRONMENT = {"DISABLE_MMA_V3": "1", "DISABLE_MMA_V5": "1", "TRITON_DEFAULT_FP_FUSION": "1"}

SCALARS = {
    "i1": np.int8, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u1": np.uint8, "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
    "fp16": np.float16, "fp32": np.float32, "f32": np.float32, "fp64": np.float64,
}  # fmt: skip


def target_of(cc):
    """The Triton target of a compute capability (80, 90, ...) or of an AMD architecture ("gfx942")."""
    if isinstance(cc, int):
        return GPUTarget("cuda", cc, 32)
    return GPUTarget("hip", cc, 64 if cc.startswith("gfx9") else 32)


class FakeDriver(DriverBase):
    """What Triton's runtime asks of a driver, answered without a GPU."""

    stream = 0  # the current one; tests set another

    def __init__(self, cc):
        self.cc = cc

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return target_of(self.cc)

    def get_current_device(self):
        return f"emulated {self.cc}"  # compiled kernels are kept by device: one a target

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device=None):
        return self.stream

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_device_interface(self):
        return torch.cpu

    def map_python_to_cpp_type(self, ty):
        return ty

    def get_benchmarker(self):
        raise RuntimeError("nothing is timed on an emulated device")

    def get_empty_cache_for_benchmark(self):
        return None

    def clear_cache(self, cache):
        pass


def _execute(compiled, grid, arguments, check):
    """Runs one compiled kernel on its CPU tensors, in place."""
    memory, values = TensorMemory(), []
    for name, value in arguments.items():
        kind = compiled.src.signature[name]
        if kind == "constexpr":
            continue
        if value is None or (kind not in SCALARS and not isinstance(value, torch.Tensor)):
            raise NotImplementedError(f"argument {name} of type {kind}: {value!r}")
        if isinstance(value, torch.Tensor):
            values.append(np.uint64(memory.address(value, name)))
        elif SCALARS[kind] in (np.float16, np.float32, np.float64):
            values.append(SCALARS[kind](value))
        else:
            values.append(np.array([value]).astype(SCALARS[kind]))
    kernel = ptx.parse(compiled.asm["ptx"], compiled.metadata.name)
    values += [np.uint64(0)] * (len(kernel.params) - len(values))  # Triton's scratch pointers, unused
    if compiled.metadata.global_scratch_size or compiled.metadata.num_ctas != 1:
        raise NotImplementedError("kernels with scratch memory or clusters")
    block = compiled.metadata.num_warps * 32
    run = ptx.launch(kernel, grid, (block,), values, memory.arena, shared_bytes=compiled.metadata.shared, check=check)
    memory.write_back()
    return run


@contextlib.contextmanager
def _patched(cc, log, execute):
    """Makes the fake driver active and sends launches to `execute`."""
    saved = {name: os.environ.get(name) for name in ENVIRONMENT}
    old_driver, old_run, old_metadata = driver._active, CompiledKernel.run, CompiledKernel.launch_metadata

    def run(compiled):
        def launch(grid_0, grid_1, grid_2, stream, function, packed, metadata, enter, leave, *args):
            if compiled.metadata.shared > SHARED_LIMIT[cc]:
                raise OutOfResources(compiled.metadata.shared, SHARED_LIMIT[cc], "shared memory")
            grid, arguments = (grid_0, grid_1, grid_2), dict(zip(compiled.src.fn.arg_names, args, strict=False))
            record = Record(compiled.src.fn.__name__, compiled, grid, arguments, stream=stream)
            if execute is not None and min(grid) > 0:
                record.run = execute(compiled, grid, arguments)
            log.add(record)

        return launch

    os.environ.update(ENVIRONMENT)
    driver.set_active(FakeDriver(cc))
    CompiledKernel.run = property(run)
    CompiledKernel.launch_metadata = lambda compiled, grid, stream, *args: None  # it would load the binary
    try:
        yield
    finally:
        CompiledKernel.run, CompiledKernel.launch_metadata = old_run, old_metadata
        driver._active = old_driver
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def ptx_device(cc=80, configs="all", check=True):
    """Inside, `kernel[grid](cpu tensors)` compiles for sm_`cc` and executes in the emulator, in place; yields a `Log`.

    An autotuned kernel runs every configuration and raises where two disagree (`configs="all"`), or one drawn
    (`"one"`). Faults raise `gpu.ptx.Fault`s. `check=False` leaves out race detection.
    """
    if cc not in EMULATED:
        raise ValueError(f"cc: got {cc!r}, expected one of {EMULATED}")
    log = Log()
    with _patched(cc, log, lambda *launch: _execute(*launch, check)), tuning(log, configs):
        yield log


@contextlib.contextmanager
def compile_only(cc, configs="all"):
    """As `ptx_device`, for any target, but nothing runs; every configuration is compiled."""
    log = Log()
    with _patched(cc, log, None), tuning(log, configs):
        yield log
