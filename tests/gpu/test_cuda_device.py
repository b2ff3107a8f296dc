"""CUDA kernels of the example operator: planned by their host entries, compiled by NVRTC, run in the emulator."""

import pytest
import torch

from . import host, nvrtc, paths
from .cuda import DTYPE_CODES, Native
from .ptx import faults

pytestmark = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
TARGETS = [75, 80, 90]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=TARGETS, ids=lambda cc: f"sm_{cc}")
def native(request):
    torch.manual_seed(0)
    return Native("scaled_add", request.param, folder=paths.EXAMPLE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "offset"), [(1000, 0), (1000, 1), (1001, 0), (20000, 0), (0, 0)])
def test_scaled_add(native, dtype, n, offset):
    x, y = (torch.randn(n + offset).to(dtype)[offset:] for _ in range(2))
    out = torch.full((n + offset,), torch.nan, dtype=dtype)[offset:]
    native.gk_scaled_add_forward(x, y, out, n, DTYPE_CODES[dtype], scale=0.5)
    assert torch.equal(out, (x.float() + 0.5 * y.float()).to(dtype))
    if n:
        wide = 16 // x.element_size() if n % 8 == 0 and not offset else 1
        assert native.log.launches[-1].name.endswith(f", {wide}>")
        assert native.log.launches[-1].run.touched.unique_bytes() == (2 * n * x.element_size(), n * x.element_size())


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_sum(native, dtype):
    x = torch.randn(5, 1001).to(dtype)[:, 1:]
    out = torch.empty(5)
    native.gk_scaled_add_row_sum(x, out, 5, 1000, x.stride(0), DTYPE_CODES[dtype])
    torch.testing.assert_close(out, x.float().sum(1), rtol=1e-5, atol=1e-4)


def test_wrong_plans_are_faults(native):
    x, out = torch.randn(5, 1000), torch.empty(5)
    with pytest.raises(faults.OutOfBounds):
        native.gk_scaled_add_row_sum(x, out, 6, 1000, 1000, 0)
    with pytest.raises(faults.OutOfBounds):
        native.gk_scaled_add_row_sum(x[:, :999], out, 5, 1000, 1000, 0)


def test_errors_of_an_entry_are_raised(native):
    x = torch.randn(8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="dtype: got code 1"):
        native.gk_scaled_add_forward(x, x, x, 8, 1, 0.5)


def test_arguments_are_checked(native):
    x = torch.randn(8)
    with pytest.raises(TypeError, match="got 5 arguments"):
        native.gk_scaled_add_forward(x, x, x, 8, 0)
    with pytest.raises(TypeError, match="size: got float"):
        native.gk_scaled_add_forward(x, x, x, 8.0, 0, 0.5)
    with pytest.raises(TypeError, match="scale"):
        native.gk_scaled_add_forward(x, x, x, 8, 0, x)
    with pytest.raises(AttributeError, match="gk_scaled_add_row_sum"):
        native.gk_scaled_add_backward(x)


def test_kernels_outside_the_list_are_refused(native):
    native._host.kernels.remove("gk::row_sum<float, 256>")
    try:
        with pytest.raises(KeyError, match="not in the kernel list"):
            native.gk_scaled_add_row_sum(torch.ones(1, 8), torch.ones(1), 1, 8, 8, 0)
    finally:
        native._host.kernels.append("gk::row_sum<float, 256>")


def test_signatures():
    text = "const void* x, const gk::i64 *sizes, i64 n, double s, void*out"
    assert host.parse_signature(text) == [
        ("x", "pointer"), ("sizes", "list"), ("n", "integer"), ("s", "real"), ("out", "pointer")
    ]  # fmt: skip
    with pytest.raises(TypeError, match="float s"):
        host.parse_signature("float s")


def test_every_listed_kernel_compiles_to_a_cubin(native):
    for name in native.kernels:
        compiled = nvrtc.compile(paths.EXAMPLE / "scaled_add.cuh", name, "sm_80", (paths.CSRC, paths.CSRC / "cuda"))
        assert compiled.cubin.startswith(b"\x7fELF")


def test_errors_of_the_compiler_are_shown(tmp_path):
    source = tmp_path / "bad.cuh"
    source.write_text("__global__ void k() { nonsense; }")
    with pytest.raises(nvrtc.CompileError, match="nonsense"):
        nvrtc.compile(source, "k", "compute_80", ())


@pytest.mark.parametrize("by", [1, 2, 3, 7, 64, 1000, 2**20 - 1, 2**31, 2**31 + 11, 2**40 + 1, 2**62 + 1, 2**63 - 1])
def test_divider_is_exact(by):
    largest = 2**63 - 1
    near = [k * by + d for k in (0, 1, 2, 3, largest // by // 2, largest // by - 1, largest // by) for d in (-1, 0, 1)]
    random = torch.randint(0, largest, (200,), generator=torch.Generator().manual_seed(by % 1000)).tolist()
    n = [v for v in [*near, *random, largest, largest - 1] if 0 <= v <= largest]
    quotient, remainder = torch.empty(len(n), dtype=torch.int64), torch.empty(len(n), dtype=torch.int64)
    Native("divide", 80, folder=paths.EXAMPLE).gk_divide(torch.tensor(n), quotient, remainder, len(n), by)
    assert quotient.tolist() == [v // by for v in n]
    assert remainder.tolist() == [v % by for v in n]
