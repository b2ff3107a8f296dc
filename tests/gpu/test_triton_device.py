"""Triton kernels, launched as ever on CPU tensors, run in the emulator for sm_75, sm_80 and sm_90."""

import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources

from .autotune import ConfigsDisagree
from .example import kernels
from .ptx import faults
from .triton_device import compile_only, ptx_device

TARGETS = [75, 80, 90]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPSILON = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


@pytest.fixture(params=TARGETS, ids=lambda cc: f"sm_{cc}")
def log(request):
    torch.manual_seed(0)
    with ptx_device(request.param) as log:
        log.cc = request.param
        yield log


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "offset"), [(2048, 0), (1000, 0), (1000, 1), (1, 3)])
def test_elementwise(log, dtype, n, offset):
    x = torch.randn(n + offset).to(dtype)[offset:]
    out = torch.full((n + offset,), torch.nan, dtype=dtype)[offset:]
    kernels.scale[(triton.cdiv(n, 1024),)](x, out, n, 3.0, BLOCK=1024)
    assert torch.equal(out, (x.float() * 3.0).to(dtype))
    counters = log.launches[-1].counters
    if (n, offset) == (2048, 0):
        assert counters["load_bytes"] == counters["store_bytes"] == n * x.element_size()
        assert counters["load_sectors"] == counters["load_ideal_sectors"]
    assert log.launches[-1].run.touched.unique_bytes() == (n * x.element_size(),) * 2


def test_reduction(log):
    x = torch.randn(64, 777)
    out = torch.empty_like(x)
    kernels.softmax[(64,)](x, out, 777, BLOCK=1024)
    torch.testing.assert_close(out, x.softmax(1), rtol=1e-6, atol=1e-8)
    assert log.launches[-1].counters["op:shfl.sync"] > 0


@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [
        (torch.float16, "ieee", 2.0**-11),
        (torch.bfloat16, "ieee", 2.0**-8),
        (torch.float32, "ieee", 2e-6),
        (torch.float32, "tf32", 2.0**-10),
        (torch.float32, "tf32x3", 4e-6),
    ],
)
def test_matmul(log, dtype, precision, tolerance):
    if log.cc == 75 and precision == "tf32x3":
        precision = "ieee"  # Turing has no tf32
    m, n, k = 96, 72, 80
    a, b, c = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.full((m, n), torch.nan, dtype=dtype)
    kernels.matmul[(2, 2)](a, b, c, m, n, k, BM=64, BN=64, BK=32, PRECISION=precision, num_stages=3)
    truth = a.double() @ b.double()
    assert (c.double() - truth).abs().max() <= tolerance * truth.abs().max()
    counters = log.launches[-1].counters
    if log.cc >= 80:
        assert counters["cp_async_bytes"] > 0
        assert (counters["mma_flops"] > 0) == (precision != "ieee" or dtype != torch.float32)
    if precision == "tf32" and log.cc >= 80:
        assert (c.double() - truth).abs().max() > 1e-5 * truth.abs().max(), "tf32 must lose what tf32 loses"


def test_shared_memory_transposition(log):
    x = torch.randn(100, 70)
    out = torch.full((70, 100), torch.nan)
    kernels.transpose[(2, 2)](x, out, 100, 70, B=64)
    assert torch.equal(out, x.T)


def test_atomics(log):
    x, out = torch.ones(1000), torch.zeros(16)
    kernels.count[(4,)](x, out, 1000, 16, BLOCK=256)
    assert out.tolist() == [63.0] * 8 + [62.0] * 8


def test_the_last_program_may_read_what_others_published(log):
    x, out = torch.randn(1000), torch.zeros(1)
    parts, ticket = torch.full((8,), torch.nan), torch.zeros(1, dtype=torch.int32)
    kernels.ticket_sum[(8,)](x, out, parts, ticket, 1000, BLOCK=128, BLOCKS=8)
    torch.testing.assert_close(out[0], x.sum(), rtol=1e-5, atol=1e-5)


def test_activations_and_random_numbers(log):
    x = torch.randn(4096)
    out, bare = torch.empty_like(x), torch.zeros_like(x)
    kernels.activations[(4,)](x, out, 4096, BLOCK=1024)
    expected = x.sigmoid() + (1 + x.exp()).log() + x.abs().sqrt() + torch.where(x > 0, x, 0.2 * x)
    noise = out - expected
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    kernels.activations[(4,)](bare, out, 4096, BLOCK=1024)
    torch.testing.assert_close(out - (0.5 + torch.log(torch.tensor(2.0))), noise, rtol=0, atol=2e-5)


def test_every_configuration_runs(log):
    x = torch.randn(1000)
    out = torch.full((1000,), torch.nan)
    kernels.tuned_scale[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, out, 1000, 2.0)
    assert torch.equal(out, x * 2)
    assert len(log.trials) == 4
    assert {(r.arguments["BLOCK"], r.compiled.metadata.num_warps) for r in log.trials} == {
        (256, 2), (256, 4), (1024, 2), (1024, 4)
    }  # fmt: skip
    assert len(log.launches) == 1


def test_configurations_start_from_the_same_inputs(log):
    x, out = torch.ones(1000), torch.full((1,), 5.0)
    kernels.tuned_sum[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, out, 1000)
    assert out.item() == 1005, "reset_to_zero is a matter of tuning; the launch adds to what is there"


def test_configurations_that_disagree_are_reported(log):
    with pytest.raises(ConfigsDisagree, match="out"):
        kernels.disagreeing[lambda meta: (triton.cdiv(256, meta["BLOCK"]),)](torch.zeros(256, dtype=torch.int32), 256)


def test_one_configuration_is_drawn_a_call():
    with ptx_device(80, configs="one") as log:
        for _ in range(12):
            x = torch.randn(300)
            kernels.tuned_scale[lambda meta: (triton.cdiv(300, meta["BLOCK"]),)](x, out := torch.empty(300), 300, 2.0)
            assert torch.equal(out, x * 2)
    assert not log.trials
    assert len({(r.arguments["BLOCK"], r.compiled.metadata.num_warps) for r in log.launches}) == 4


def test_faults_reach_the_caller(log):
    x, out = torch.randn(1000), torch.empty(1000)
    with pytest.raises(faults.OutOfBounds):
        kernels.stray_mask[(1,)](x, out, 1000, BLOCK=1024)
    with pytest.raises(faults.BlockRace):
        kernels.untaken_ticket[(4,)](x, out, 1000, BLOCK=256)
    whole = torch.randn(2000)
    with pytest.raises(faults.OutOfBounds):  # inside the storage, outside the view
        kernels.stray_mask[(1,)](whole[:1000], torch.empty(2000), 1000, BLOCK=1024)


def test_too_much_shared_memory_is_refused():
    a = c = torch.zeros(256, 256, dtype=torch.float16)
    with ptx_device(86), pytest.raises(OutOfResources):
        kernels.matmul[(1, 1)](a, a, c, 256, 256, 256, 128, 128, 128, PRECISION="ieee", num_warps=8, num_stages=3)


@pytest.mark.parametrize("target", [75, 90, 100, 120, "gfx942"])
def test_compile_only(target):
    x, out = torch.zeros(1024), torch.full((1024,), 7.0)
    with compile_only(target) as log:
        kernels.tuned_scale[lambda meta: (triton.cdiv(1024, meta["BLOCK"]),)](x, out, 1024, 2.0)
    assert (out == 7).all()
    assert len(log.trials) == 4
    binary = "cubin" if isinstance(target, int) else "hsaco"
    assert all(len(r.compiled.asm[binary]) > 500 for r in log.trials)


def test_the_real_driver_is_back_afterwards():
    from triton.compiler.compiler import CompiledKernel
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner

    before = driver._active, CompiledKernel.run, CompiledKernel.launch_metadata, Autotuner.run
    with pytest.raises(ZeroDivisionError), ptx_device(80):
        raise ZeroDivisionError
    assert (driver._active, CompiledKernel.run, CompiledKernel.launch_metadata, Autotuner.run) == before
