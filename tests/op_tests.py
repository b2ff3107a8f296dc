"""The battery that every operator inherits: subclass OpTests, name the operator, give samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
from compile_tests import CompileTests
from export_tests import ExportTests
from op_samples import Calls, Sample, assert_as_true_as_reference, exact_in_any_dtype, layouts
from torch import Tensor
from torch.autograd import forward_ad

import gankernels
from gankernels import _backend

GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class OpTests(CompileTests, ExportTests):
    name: str  # the operator's name in the registry
    kernel = ""  # where it calls another operator: that one's name in the registry
    overloads: tuple[str, ...] = ()  # operators of the dispatcher behind it, without namespace
    dtypes = (torch.float64, *GPU_DTYPES)
    layout_of: tuple[str, ...] = ()  # tensors whose layout is varied; empty: all
    second_order = True
    thread_tolerance = 1e-6
    skip_vmap = ""  # a reason, where vmap makes no sense

    def op(self, **kwargs):
        return getattr(gankernels.ops, self.name)(**kwargs)

    def reference(self, **kwargs):
        with gankernels.backend("reference"):
            return self.op(**kwargs)

    def samples(self) -> Iterator[Sample]:
        """Small calls: empty, 1x1, odd, non-square, every option."""
        raise NotImplementedError

    def bad(self) -> Iterator[tuple[dict, str]]:
        """Calls that must raise ValueError, with what the message must say."""
        raise NotImplementedError

    def check_pruned(self, calls: Calls, wanted: str) -> None:
        """Fails where `calls`, made for the gradient of `wanted` alone, computed another's."""
        raise NotImplementedError

    # The machinery.

    @pytest.fixture(params=_backend.NAMES)
    def backend(self, request):
        yield from _forced(request.param, self.device(request.param), self.kernel or self.name)

    @staticmethod
    def device(backend: str) -> torch.device:
        gpu = backend != "cpu" and torch.cuda.is_available() and backend not in _backend.emulated
        return torch.device("cuda" if gpu else "cpu")

    def has(self, backend: str, dtype: torch.dtype) -> bool:
        return dtype in self.dtypes

    def on(self, backend: str, dtype: torch.dtype) -> list[Sample]:
        torch.manual_seed(0)
        return [s.to(self.device(backend), dtype) for s in self.samples()]

    def first(self, backend: str, dtype: torch.dtype = torch.float32) -> Sample:
        return next(s for s in self.on(backend, dtype) if all(t.numel() for t in s.tensors.values()))

    def call(self, s: Sample) -> Tensor:
        return self.op(**s.tensors, **s.fixed, **s.kwargs)

    @staticmethod
    def gradients(y: Tensor, s: Sample, **options) -> dict[str, Tensor]:
        gy = exact_in_any_dtype(y.shape, 1).to(y)
        return dict(zip(s.tensors, torch.autograd.grad(y, list(s.tensors.values()), gy, **options), strict=True))

    @pytest.mark.parametrize("dtype", [torch.float64, *GPU_DTYPES], ids=lambda d: str(d)[6:])
    def test_values_and_gradients(self, backend, dtype):
        if not self.has(backend, dtype):
            pytest.skip(f"{self.name} on {backend} has no {dtype}")
        for s in self.on(backend, dtype):
            before = {k: t.detach().clone() for k, t in (s.tensors | s.fixed).items()}
            y = self.call(s.fresh())
            t = s.fresh()
            ours = self.gradients(self.call(t), t)
            with gankernels.backend("reference"):
                t = s.fresh()
                theirs_y = self.call(t)
                theirs = self.gradients(theirs_y, t)
                t = s.to("cpu", torch.float64)
                truth_y = self.call(t)
                truth = self.gradients(truth_y, t)
            label = f"{s.kwargs} { {k: list(v.shape) for k, v in s.tensors.items()} }"
            assert_as_true_as_reference(y, theirs_y, truth_y, f"value {label}")
            for k in truth:
                assert_as_true_as_reference(ours[k], theirs[k], truth[k], f"gradient of {k} {label}")
            for k, v in before.items():
                assert torch.equal(v, (s.tensors | s.fixed)[k]), f"{k} was changed"

    def test_layouts(self, backend):
        for s in self.on(backend, torch.float32):
            plain = s.fresh()
            y = self.call(plain)
            g = self.gradients(y, plain)
            for name in self.layout_of or s.tensors:
                if name not in s.tensors or not s.tensors[name].numel():
                    continue
                for layout, other in layouts(s.tensors[name].detach()):
                    t = s.fresh()
                    t.tensors[name] = other.requires_grad_()
                    y2 = self.call(t)
                    where = f"{name} {layout} {list(other.shape)} {s.kwargs}"
                    torch.testing.assert_close(y2, y, rtol=1e-5, atol=1e-5, msg=lambda m, w=where: f"{w}: {m}")
                    for k, v in self.gradients(y2, t).items():
                        torch.testing.assert_close(v, g[k], rtol=1e-4, atol=1e-4, msg=lambda m, w=where: f"{w}: {m}")

    def test_expanded(self, backend):
        """Tensors, and a cotangent, that repeat one row without memory of their own: as if it were copied."""
        s = self.first(backend)
        if all(t.ndim == 0 or t.shape[0] == 1 for t in s.tensors.values()):
            pytest.skip("a batch of one has nothing to expand")
        dense, expanded = s.fresh(), s.fresh()
        for name, t in s.tensors.items():
            repeated = t.detach()[:1].expand(t.shape) if t.ndim else t.detach()
            expanded.tensors[name] = repeated.requires_grad_()
            dense.tensors[name] = repeated.detach().contiguous().requires_grad_()
        results = []
        for t in (expanded, dense):
            y = self.call(t)
            gy = exact_in_any_dtype(y.shape[-1:], 1).to(y).expand(y.shape)
            leaves = list(t.tensors.values())
            results.append([y, *torch.autograd.grad(y, leaves, gy if t is expanded else gy.contiguous())])
        for name, a, b in zip(["value", *s.tensors], *results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=False, msg=lambda m, w=name: f"{w}: {m}")

    def test_gradcheck(self, backend):
        if not self.has(backend, torch.float64):
            pytest.skip(f"{self.name} on {backend} has no float64")
        for s in self.on(backend, torch.float64):
            names = list(s.tensors)

            def f(*tensors, s=s, names=names):
                return self.op(**dict(zip(names, tensors, strict=True)), **s.fixed, **s.kwargs)

            # The noise of a sum on a GPU's atomics would be reported as nondeterminism; ours must not have any.
            inputs = tuple(s.tensors.values())
            assert torch.autograd.gradcheck(f, inputs, check_undefined_grad=True)
            if self.second_order:
                assert torch.autograd.gradgradcheck(f, inputs, atol=1e-4)

    def test_forced_backend_stays_with_its_graph(self, backend):
        other = "reference" if backend != "reference" else "cpu"
        namespace = {"cpu": "gankernels_native", "cuda": "gankernels_native", "triton": "gankernels"}.get(backend)
        s = self.first(backend)
        y = self.call(s)
        calls = Calls()
        with gankernels.backend(other), calls:
            self.gradients(y, s)
        ours = {n for n in calls.names() if n.startswith("gankernels")}
        if namespace is None:
            assert not ours, f"reference ran {ours} in backward"
        else:
            assert ours, f"backward of {backend} ran no kernel of ours, only {calls.names()}"
            assert {n.split("::")[0] for n in ours} == {namespace}

    def test_forced_backend_runs_its_kernel(self, backend):
        calls = Calls()
        with calls, torch.no_grad():
            self.call(self.first(backend))
        ours = {n.split("::")[0] for n in calls.names() if n.startswith("gankernels")}
        expected = {"cpu": {"gankernels_native"}, "cuda": {"gankernels_native"}, "triton": {"gankernels"}}
        assert ours == expected.get(backend, set()), f"{backend} ran {calls.names()}"

    def test_only_the_gradients_asked_for(self, backend):
        if backend == "reference":
            pytest.skip("reference leaves pruning to PyTorch")
        s = self.first(backend)
        for name in s.tensors:
            t = s.fresh()
            y = self.call(t)
            calls = Calls()
            with calls:
                torch.autograd.grad(y.sum(), [t.tensors[name]])
            self.check_pruned(calls, name)

    def test_autocast(self, backend):
        device = self.device(backend).type
        s = self.first(backend)
        with torch.autocast(device, dtype=torch.bfloat16):
            y = self.call(s)
            with gankernels.backend("reference"):
                expected = self.call(s)
        assert y.dtype == expected.dtype
        torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=2e-2)
        self.gradients(y, s)

    def test_vmap(self, backend):
        if self.skip_vmap:
            pytest.skip(self.skip_vmap)
        s = self.first(backend)
        for name in s.tensors:
            base = {k: t.detach() for k, t in s.tensors.items()}
            batch = torch.stack([base[name] * (1 + i / 2) for i in range(3)], dim=-1)
            f = lambda t, name=name, base=base: self.op(**{**base, name: t}, **s.fixed, **s.kwargs)  # noqa: E731
            torch._C._functorch._set_vmap_fallback_warning_enabled(True)
            y = torch.func.vmap(f, in_dims=-1)(batch)
            expected = torch.stack([f(batch[..., i]) for i in range(3)])
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)

    def test_functional_derivatives_are_refused_by_name(self, backend):
        s = self.first(backend)
        name = next(iter(s.tensors))
        rest = {k: t.detach() for k, t in s.tensors.items() if k != name}
        f = lambda t: self.op(**{name: t}, **rest, **s.fixed, **s.kwargs).sum()  # noqa: E731
        if backend == "reference":
            torch.func.grad(f)(s.tensors[name].detach())
            return

        def forward_mode(t):
            with forward_ad.dual_level():
                f(forward_ad.make_dual(t, t))

        for derivative in (torch.func.grad(f), lambda t: torch.func.jvp(f, (t,), (t,)), forward_mode):
            with pytest.raises(RuntimeError, match=f"{self.kernel or self.name}: torch.func.grad, vjp and jvp cannot"):
                derivative(s.tensors[name].detach())

    def test_threads_do_not_change_the_result(self, backend):
        if backend != "cpu":
            pytest.skip("a matter of the cpu kernels")
        s = self.first(backend)
        n = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                t = s.fresh()
                y = self.call(t)
                results.append([y, *self.gradients(y, t).values()])
        finally:
            torch.set_num_threads(n)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                torch.testing.assert_close(a, b, rtol=self.thread_tolerance, atol=self.thread_tolerance)

    def test_unusable_backend_raises_with_the_reason(self):
        for name in _backend.NAMES:
            device = "cpu" if name in ("cuda", "triton") else "meta"
            if name == "reference" or name in _backend.emulated:
                continue
            s = next(iter(self.samples())).to(device, torch.float32)
            with gankernels.backend(name), pytest.raises(RuntimeError, match="is forced but cannot run"):
                self.call(s)

    def test_bad_input(self, backend):
        cases = list(self.bad())
        assert cases
        for kwargs, message in cases:
            device = self.device(backend)
            moved = {
                k: v.to(device) if isinstance(v, Tensor) and v.device.type == "cpu" else v for k, v in kwargs.items()
            }
            with pytest.raises(ValueError, match=message) as caught:
                self.op(**moved)
            assert str(caught.value).startswith(self.name), f"the message names no operator: {caught.value}"

    def test_documented(self):
        doc = inspect.getdoc(getattr(gankernels.ops, self.name))
        for word in ("Args:", "Returns:", "Raises:", "ifferentiable"):
            assert word in (doc or ""), f"the docstring of {self.name} lacks {word}"


def _forced(backend: str, device: torch.device, op: str | None) -> Iterator[str]:
    if reason := gankernels.why_not(backend, device, op):
        pytest.skip(f"{op or 'all'} on {backend}: {reason}")
    with gankernels.backend(backend):
        yield backend


def on_each_backend(op: str | None = None, names: tuple[str, ...] = _backend.NAMES):
    """A fixture that forces one backend after another, of those that run here and have `op`; its value is the name."""

    @pytest.fixture(params=names)
    def backend(request):
        yield from _forced(request.param, OpTests.device(request.param), op)

    return backend
