"""The battery itself is tested: an operator that is right passes, and each way of sabotage is caught."""

import cells
import pytest
import torch
from op_tests import Calls, OpTests, Sample

import gankernels
from gankernels import _backend

FLAWS = ("bypassed autograd", "unwritten element", "wrong stride in the fake", "wrong second derivative", "fallback")


def make(flaw: str | None):
    """square(x) = x^2 as an operator of its own name, sound or with one flaw; returns its battery."""
    tag = "".join(c for c in flaw or "sound" if c.isalpha())
    name, slope = f"square_{tag}", f"square_{tag}_slope"
    qualified, qualified_slope = f"gankernels::{name}", f"gankernels::{slope}"
    torch.library.define(qualified, "(Tensor x) -> Tensor")
    torch.library.define(qualified_slope, "(Tensor g, Tensor x) -> Tensor")

    def run(x):
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.mul(x, x, out=out)
        if flaw == "unwritten element" and out.numel() > 4:
            out.view(-1)[-1:].copy_(torch.empty(1, dtype=x.dtype))
        return out

    def run_slope(g, x):
        return (2 * g * x).contiguous()

    def fake(x):
        if flaw == "wrong stride in the fake":
            return torch.empty_like(x.transpose(0, -1), memory_format=torch.contiguous_format).transpose(0, -1)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    torch.library.impl(qualified, "CompositeExplicitAutograd", run)
    torch.library.impl(qualified_slope, "CompositeExplicitAutograd", run_slope)
    torch.library.register_fake(qualified, fake)
    torch.library.register_fake(
        qualified_slope, lambda g, x: torch.empty_like(x, memory_format=torch.contiguous_format)
    )
    op, op_slope = getattr(torch.ops.gankernels, name), getattr(torch.ops.gankernels, slope)

    def keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return run_slope(g.detach(), x.detach()) if flaw == "bypassed autograd" else op_slope(g, x)

    def backward_slope(ctx, h):
        g, x = ctx.saved_tensors
        factor = 3 if flaw == "wrong second derivative" else 2
        return op_slope(h, x), factor * h * g

    torch.library.register_autograd(qualified, backward, setup_context=keep)
    torch.library.register_autograd(qualified_slope, backward_slope, setup_context=keep)
    reference = lambda x: x * x  # noqa: E731
    _backend.register(name, reference=reference, triton=reference if flaw == "fallback" else op)

    class Battery(OpTests):
        overloads = (name, slope)

        @staticmethod
        def op(x):
            return _backend.pick(name, x)(x)

        def samples(self):
            yield Sample({"x": torch.randn(2, 3, 4, 5, dtype=torch.float64)})

        def check_pruned(self, calls: Calls, wanted: str):
            assert len(calls.seen) >= 1

    Battery.name = name
    return Battery()


CHECKS = (
    lambda t: t.test_values_and_gradients("triton", torch.float32),
    lambda t: t.test_gradcheck("triton"),
    lambda t: t.test_opcheck("triton"),
    lambda t: t.test_layouts("triton"),
    lambda t: t.test_forced_backend_runs_its_kernel("triton"),
    lambda t: t.test_forced_backend_stays_with_its_graph("triton"),
)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The toy operator's "triton" kernel is a CPU one: only the battery is tested here."""
    monkeypatch.setattr(_backend, "emulated", {"triton"})
    with gankernels.backend("triton"):
        yield
    for name in [n for n in _backend._operators if n.startswith("square_")]:
        del _backend._operators[name]


def test_a_sound_operator_passes(on_the_cpu):
    battery = make(None)
    for check in CHECKS:
        check(battery)


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.filterwarnings("ignore")
def test_each_flaw_is_caught(on_the_cpu, flaw):
    battery = make(flaw)
    caught = 0
    for check in CHECKS:
        try:
            check(battery)
        except Exception:
            caught += 1
    assert caught, f"{flaw} passed the whole battery"


def test_cells_are_counted():
    text = cells.table(
        [
            ("conv2d", "cpu", "test_layouts", "passed", ""),
            ("conv2d", "cpu", "test_vmap", "skipped", "no rule"),
            ("conv2d", "triton sm_80", "test_layouts", "error", ""),
            ("maxout", "cpu", "test_vmap", "skipped", ""),
        ]
    )
    assert "4 cells: 1 green, 1 failed, 2 skipped for 2 reasons, 1 without one." in text
    assert "| conv2d | 1 (1) | 0, 1 FAILED |" in text
    assert "| maxout | 0 (1) |  |" in text
    assert "- no rule: conv2d" in text
    assert "- NO REASON: maxout" in text
