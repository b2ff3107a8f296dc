"""Safe on any stream and inside a CUDA graph: launches go to the current stream, and the host never waits nor asks.

A capture allows launches on the capturing stream and memory from torch's allocator, and nothing that makes the host
wait: no synchronisation, no value read back, no memory of our own.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from gpu import fake_streams, nvrtc
from op_tests import Calls
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

import gankernels
from gankernels import _backend, ops

ROOT = pathlib.Path(__file__).resolve().parent.parent
WAITS = re.compile(
    r"cuda(Malloc|Free|HostAlloc|Memcpy(?!Async)|Memset(?!Async))|Synchronize|\bsynchronize\(|cudaEvent|\bthrust::|"
    r"\bcub::Device|\.item[(<]|_local_scalar_dense|\.tolist\(|\.cpu\(|\.numpy\(|\.nonzero\(|kCPU"
)
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::unique"}


def conv2d(x, c):
    return ops.conv2d(x, (c[:, None] * c)[:, :, None, None], c)


TABLE = {**fake_streams.calls()[0], "conv2d": conv2d}
COMPOSED = {  # of PyTorch's kernels alone
    "self_attention2d": lambda x, c: ops.self_attention2d(x, x, x, second_order=True),
}
TENSORS = fake_streams.calls()[1]


def lines_that_wait():
    """Where the device sources, and the Python between a call and its launch, name what makes the host wait."""
    files = [*(ROOT / "csrc" / "cuda").glob("*"), *(ROOT / "csrc").glob("*_autograd.cpp")]
    files += [*(ROOT / "gankernels" / "triton").glob("*.py"), *(ROOT / "gankernels" / "ops").glob("*.py")]
    files += [ROOT / "gankernels" / "_launch.py"]
    for file in files:
        if file.name == "_arrays.py":  # NumPy arrays: on no stream
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            code = re.sub(r"(//|#(?!include)).*", "", line)
            if WAITS.search(code):
                yield f"{file.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_source_makes_the_host_wait():
    if not (ROOT / "csrc").is_dir():
        pytest.skip("an installed package has no sources")
    assert list(lines_that_wait()) == []


def test_the_search_finds_what_waits():
    for line in (
        "cudaMalloc(&p, n)",
        "cudaDeviceSynchronize();",
        "x.item()",
        "x.item<float>()",
        "torch.cuda.synchronize()",
    ):
        assert WAITS.search(line), line
    for line in ("cudaMemcpyAsync(a, b, n)", "at::empty({n}, x.options())", "items = 3"):
        assert not WAITS.search(line), line


@pytest.mark.parametrize("backend", _backend.NAMES)
@pytest.mark.parametrize("name", [*TABLE, *COMPOSED])
def test_no_value_is_read_by_the_host(name, backend, monkeypatch):
    """A fake tensor has no values: who asks for one raises."""
    if backend not in _backend.operators()[name]:
        pytest.skip(f"{name} has no {backend} kernel")
    if backend in ("cpu", "cuda") and _backend.native_error:
        pytest.skip(_backend.native_error)
    monkeypatch.setattr(_backend, "emulated", {"triton", "cuda"})
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, gankernels.backend(backend):
        leaves = [mode.from_tensor(t).requires_grad_() for t in TENSORS]
        calls = Calls()
        with calls:
            y = (TABLE | COMPOSED)[name](*leaves)
            first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True, allow_unused=True)
            total = sum(g.square().sum() for g in first if g is not None)
            torch.autograd.grad(total, leaves, allow_unused=True)
    assert not calls.names() & READS
    assert len(calls.seen) > 3


def test_the_fake_tensors_notice():
    with FakeTensorMode() as mode, pytest.raises(DataDependentOutputException):
        mode.from_tensor(torch.ones(2)).sum().item()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has a CUDA device of its own")
@pytest.mark.skipif(_backend.native_error is not None, reason=str(_backend.native_error))
@pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
def test_cuda_launches_go_to_the_current_stream():
    pytest.importorskip("cupy")
    command = [sys.executable, "-m", "gpu.fake_streams"]
    done = subprocess.run(command, cwd=os.path.dirname(__file__), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    calls, operators = map(int, re.search(r"(\d+) calls of (\d+) operators on 2 streams", done.stdout).groups())
    assert calls > operators > 15


@pytest.mark.parametrize("name", [name for name in TABLE if "triton" in _backend.operators()[name]])
def test_triton_launches_go_to_the_current_stream(name):
    pytest.importorskip("triton")
    from gpu.fixtures import accepting
    from gpu.triton_device import compile_only
    from triton.runtime import driver

    plans = []
    for stream in fake_streams.STREAMS:
        with compile_only(80, "one") as log, accepting("triton"), gankernels.backend("triton"):
            driver.active.stream = stream
            leaves = [t.clone().requires_grad_() for t in TENSORS]
            y = TABLE[name](*leaves)
            torch.autograd.grad(y.sum(), leaves, allow_unused=True)
        assert log.launches
        assert {launch.stream for launch in log.launches} == {stream}
        plans.append([(launch.name, launch.grid) for launch in log.launches])
    assert plans[0] == plans[1]
