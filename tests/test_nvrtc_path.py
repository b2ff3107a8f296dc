"""CUDA kernels without nvcc: real bindings and entries, NVRTC through CuPy, the cache, the packing; all but the launch.

CuPy's launch alone is replaced: it takes what RawModule is given and runs it in the emulator of PTX.
"""

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from gpu import host, ptx
from gpu.cuda import Bridge
from gpu.fake_cupy import Gpu, real_cupy_  # noqa: F401  the fixture real_cupy
from gpu.fixtures import accepting, redirected
from gpu.log import Log
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels import _backend, _doctor, _launch, _nvrtc, _shipped, ops

needs_extension = pytest.mark.skipif(_backend.native_error is not None, reason=str(_backend.native_error))
KERNEL = "gk::bias_act_sums<float>"


@pytest.fixture
def through_cupy(real_cupy, monkeypatch):
    """The cuda backend on CPU tensors, its launches through `Runner` and a GPU newer than NVRTC: so PTX, executed."""
    bridge = Bridge(80, Log())

    def execute(path, symbol, grid, block, params, shared):
        with open(path) as file:
            kernel = ptx.parse(file.read(), symbol)
        assert [size for _, size, _ in kernel.params] == [len(params)]
        ptx.launch(kernel, grid, block, [params], bridge._memory.arena, shared_bytes=shared, check=True)
        bridge._memory.write_back()

    gpu = Gpu(real_cupy, "81", execute)
    monkeypatch.setattr(_nvrtc, "cupy", lambda: gpu.cupy)
    runner = _launch.Runner()
    hooks = host.Emulator(bridge._begin, bridge._address, runner.callback)
    library = ctypes.CDLL(importlib.import_module("gankernels._C").__file__)
    library.gk_set_emulator(ctypes.byref(hooks))
    try:
        with redirected(), accepting("cuda"):
            yield gpu
    finally:
        library.gk_set_emulator(None)


def derivatives(x, b, g):
    x, b, g = (t.detach().requires_grad_() for t in (x, b, g))
    y = ops.bias_act(x, b, act="swish", clamp=1.5)
    first = torch.autograd.grad(y, [x, b], g, create_graph=True)
    return [y, *first, *torch.autograd.grad(first, [x, b, g], [torch.ones_like(x), torch.ones_like(b)])]


@needs_extension
@pytest.mark.parametrize(
    ("layout", "dtype"), [("NCHW", torch.float32), ("NHWC", torch.bfloat16), ("misaligned", torch.float32)]
)
def test_an_operator_runs_on_what_nvrtc_makes(through_cupy, layout, dtype):
    x, g = (torch.randn(2, 5, 3, 9, dtype=dtype) for _ in range(2))
    b = torch.randn(5, dtype=dtype)
    if layout == "NHWC":
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    if layout == "misaligned":
        x = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    with gankernels.backend("reference"):
        theirs, truth = derivatives(x, b, g), derivatives(x.double(), b.double(), g.double())
    with gankernels.backend("cuda"):
        ours = derivatives(x, b, g)
    assert {launch[0].rsplit(".", 1)[1] for launch in through_cupy.launches} == {"ptx"}
    assert len({launch[1] for launch in through_cupy.launches}) >= 3
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@needs_extension
def test_errors_cross_the_binding_with_their_text(through_cupy, monkeypatch):
    x = torch.randn(2, 3)

    def refuse(*_):
        raise _nvrtc.CompileError("bias_act.cuh(3): error: nonsense " + "x" * 600 + " the end")

    with monkeypatch.context() as patch, gankernels.backend("cuda"):
        patch.setattr(_nvrtc, "compile", refuse)
        with pytest.raises(
            RuntimeError, match=r"bias_act: CompileError: bias_act.cuh\(3\): error: nonsense x+ the end"
        ):
            ops.bias_act(x)
    with monkeypatch.context() as patch, gankernels.backend("cuda"):
        patch.setattr(_nvrtc, "compile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(RuntimeError, match="bias_act: KeyboardInterrupt"):
            ops.bias_act(x)
    with gankernels.backend("cuda"):
        assert torch.equal(ops.bias_act(x, act="relu", gain=1.0), x.relu())  # a failure leaves nothing behind


def plan(kernel="gk::bias_act_map<float, 0>", params=b"\1" * 40, shared=0, grid=(2, 3, 1), stream=77, device=1):
    launch = _launch.Launch(kernel.encode(), grid, (32, 1, 1), shared, len(params))
    launch.params[: len(params)] = params
    return _launch.Launcher(_launch.Run(), stream, b"bias_act", device), launch


def test_a_launch_names_gpu_stream_code_and_struct(real_cupy, monkeypatch):
    gpu = Gpu(real_cupy, "90", lambda *_: None)
    monkeypatch.setattr(_nvrtc, "cupy", lambda: gpu.cupy)
    runner = _launch.Runner()
    runner.launch(*plan())
    (path, symbol, grid, block, params, shared, device, stream) = gpu.launches.pop()
    with open(path, "rb") as file:
        code = file.read()
    assert path.endswith(".cubin")
    assert code.startswith(b"\x7fELF")
    assert symbol.encode() in code
    assert (grid, block, params, shared, device, stream) == ((2, 3, 1), (32, 1, 1), b"\1" * 40, 0, 1, (77, 1))
    runner.launch(*plan(stream=0, device=0))
    assert gpu.launches.pop()[-2:] == (0, "null")
    runner.launch(*plan(grid=(0, 1, 1)))
    assert not gpu.launches
    for shared in (48 * 1024, 64 * 1024, 60 * 1024, 100 * 1024):
        runner.launch(*plan(shared=shared))
    assert gpu.shared == [64 * 1024, 100 * 1024]
    assert not gpu.devices


@needs_extension
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a CUDA device of its own")
def test_tensors_on_a_gpu_that_is_not_there(real_cupy):
    command = [sys.executable, "-m", "gpu.fake_cuda"]
    done = subprocess.run(command, cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith("launches")


def test_cupy_takes_the_struct_by_value(real_cupy):
    """CuPy packs arguments before it needs a driver: without one, what it cannot pass is a TypeError, the rest not."""
    if real_cupy.cuda.is_available():
        pytest.skip("there is a GPU: a launch of nothing would fail otherwise")
    function = importlib.import_module("cupy.cuda.function").Function
    nothing = function.__new__(function)
    params = np.ndarray((1,), np.dtype((np.void, 96)), bytearray(96))
    with pytest.raises(real_cupy.cuda.runtime.CUDARuntimeError):
        nothing((1,), (1,), (params,), shared_mem=0, stream=real_cupy.cuda.Stream.null)
    with pytest.raises(TypeError, match="by value"):
        nothing((1,), (1,), (np.zeros(3),), shared_mem=0, stream=real_cupy.cuda.Stream.null)


def test_every_kernel_of_every_operator_compiles_from_what_a_wheel_holds(real_cupy, tmp_path):
    """One instantiation of each source suffices here: the battery on the emulator compiles the others."""
    root = tmp_path / "_csrc"
    for path in _nvrtc.headers([_nvrtc.sources()]):
        name = path.relative_to(_nvrtc.sources())
        if name.parts[0] != "cpu":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / name)
    operators = sorted(p.stem for p in (root / "cuda").glob("*.cuh") if p.with_name(f"{p.stem}_params.h").exists())
    assert "bias_act" in operators
    library = ctypes.CDLL(importlib.import_module("gankernels._C").__file__)
    for op in operators:
        names = host.HostLibrary(library, [f"gk_{op}_kernels"]).kernels
        found = _nvrtc.compile(op, names[0], "90", root)
        assert found.path.read_bytes().startswith(b"\x7fELF")


def test_the_log_of_the_compiler_is_shown(real_cupy, tmp_path):
    root = tmp_path / "csrc"
    (root / "cuda").mkdir(parents=True)
    (root / "cuda" / "bad.cuh").write_text("__global__ void k() { nonsense; }\n")
    with pytest.raises(_nvrtc.CompileError, match=r"(?s)k of bad.cuh for sm_80.*bad.cuh\(1\).*nonsense"):
        _nvrtc.compile("bad", "k", "80", root)
    (root / "cuda" / "bad.cuh").write_text("__global__ void k() {}\n")
    with pytest.raises(_nvrtc.CompileError, match=r"absent<3> of bad\.cuh"):
        _nvrtc.compile("bad", "absent<3>", "80", root)


def test_targets(real_cupy):
    assert _nvrtc.target("90", (75, 80, 90, 100)) == ("sm_90", "cubin")
    assert _nvrtc.target("120", (75, 80, 90, 100)) == ("compute_100", "ptx")
    with pytest.raises(_nvrtc.CompileError, match=r"compute capability 70; NVRTC .* needs 75"):
        _nvrtc.target("70", (75, 80))


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"CuPy is not installed: {_nvrtc.INSTALL}")):
        _nvrtc.cupy()
    assert "cannot be compiled when first run" in _nvrtc.describe()


@needs_extension
def test_why_not_states_both_ways(monkeypatch):
    if _backend.cuda_built:
        pytest.skip("nvcc has compiled the kernels of this build")
    monkeypatch.setattr(_nvrtc, "missing", "CuPy is not installed")
    reason = gankernels.why_not("cuda", "cuda", "bias_act")
    for words in ("GANKERNELS_CUDA=1", _nvrtc.INSTALL, "CuPy is not installed"):
        assert words in reason
    monkeypatch.setattr(_nvrtc, "missing", None)
    assert gankernels.why_not("cuda", "cuda", "bias_act") is None
    assert gankernels.why_not("cuda", "cpu", "bias_act") == "it runs on cuda tensors, these are on cpu"
    assert _backend.ORDER["cuda"] == ("triton", "cuda", "reference")


@needs_extension
def test_doctor_says_what_would_run_and_what_is_unproven(real_cupy, monkeypatch):
    if _backend.cuda_built:
        pytest.skip("nvcc has compiled the kernels of this build")
    report = _doctor.report()
    assert f"compiled when first run: CuPy {real_cupy.__version__}, NVRTC {_nvrtc.version()}" in report
    if not torch.cuda.is_available():
        assert "Unproven here: CuPy's launch of CUDA kernels" in report


def test_sources_of_a_wheel_and_of_a_checkout(monkeypatch, tmp_path):
    assert (_nvrtc.sources() / "cuda" / "bias_act.cuh").is_file()
    monkeypatch.setattr(_shipped, "__file__", str(tmp_path / "gankernels" / "_shipped.py"))
    with pytest.raises(FileNotFoundError, match="reinstall gankernels"):
        _nvrtc.sources()
    for folder in (tmp_path / "csrc", tmp_path / "gankernels" / "_csrc"):  # the second, a wheel's, wins
        (folder / "cuda").mkdir(parents=True)
        (folder / "cuda" / "launch.h").touch()
        assert _nvrtc.sources() == folder
