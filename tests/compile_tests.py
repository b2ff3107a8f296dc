"""What the battery asks of torch.compile, and of what an operator registers for it: the same numbers as eager."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from op_samples import Calls
from torch import Tensor

import gankernels


class CompileTests:
    def opchecks(self, backend) -> Iterator[tuple]:
        """(overload, args) of the dispatcher operators behind this one, recorded from its own calls."""
        names = {f"{ns}::{o}" for ns in ("gankernels", "gankernels_native") for o in self.overloads}
        for s in self.on(backend, torch.float32):
            calls = Calls()
            t = s.fresh()
            with calls:
                y = self.call(t)
                gs = self.gradients(y, t, create_graph=True) if self.second_order else self.gradients(y, t)
                total = sum(
                    (g.square().sum() for g in gs.values() if g.requires_grad), torch.zeros((), device=y.device)
                )
                if total.requires_grad:
                    torch.autograd.grad(total, list(t.tensors.values()), allow_unused=True)
            for name, args in calls.seen:
                space, _, rest = name.partition("::")
                if f"{space}::{rest.split('.')[0]}" in names:
                    yield getattr(getattr(torch.ops, space), rest.split(".")[0]).default, tuple(args.values())

    def test_opcheck(self, backend):
        if backend == "reference":
            pytest.skip("reference is plain PyTorch, it registers nothing")
        checked, done = set(), set()
        for overload, args in self.opchecks(backend):
            key = (str(overload), str([(a.shape, a.stride()) if isinstance(a, Tensor) else a for a in args]))
            if key in done or len([d for d in done if d[0] == key[0]]) >= 6:
                continue
            done.add(key)
            args = tuple(
                a.detach().clone(memory_format=torch.preserve_format).requires_grad_()
                if isinstance(a, Tensor) and a.is_floating_point()
                else a
                for a in args
            )
            torch.library.opcheck(overload, self.opcheck_args(str(overload), args))
            checked.add(str(overload).split("::")[-1].split(".")[1 if "::" not in str(overload) else 0])
        missing = {o for o in self.overloads if not any(o in str(d[0]) for d in done)}
        assert not missing, f"never called: {missing}"

    def opcheck_args(self, overload: str, args: tuple) -> tuple:
        return args

    def compiled_equals_eager(self, backend, compiler, dynamic=None):
        """Loss and every gradient of samples under torch.compile(fullgraph=True)."""
        samples = [s for s in self.on(backend, torch.float32) if all(t.numel() for t in s.tensors.values())]

        torch._dynamo.reset()
        for s in samples[:1] if compiler == "inductor" else samples[:4]:

            def f(tensors, s=s):
                y = self.op(**tensors, **s.fixed, **s.kwargs)
                return (y * torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view_as(y)).sum()

            compiled = torch.compile(f, backend=compiler, fullgraph=True, dynamic=dynamic)
            t, u = s.fresh(), s.fresh()
            a, b = f(t.tensors), compiled(u.tensors)
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
            ga = torch.autograd.grad(a, list(t.tensors.values()))
            gb = torch.autograd.grad(b, list(u.tensors.values()))
            for k, x, y in zip(s.tensors, ga, gb, strict=True):
                torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4, msg=lambda m, k=k: f"gradient of {k}: {m}")

    @pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
    def test_compile(self, backend, compiler):
        self.compiled_equals_eager(backend, compiler)

    def test_compile_dynamic_shapes(self, backend):
        self.compiled_equals_eager(backend, "aot_eager", dynamic=True)

    def test_compile_follows_the_forced_backend(self, backend):
        s = self.first(backend)
        graphs = []

        def keep(graph, inputs):
            graphs.append({str(node.target) for node in graph.graph.nodes if "gankernels" in str(node.target)})
            return graph.forward

        torch._dynamo.reset()
        f = torch.compile(lambda: self.call(s), backend=keep, fullgraph=True)
        with torch.no_grad():
            f()
            with gankernels.backend("reference"):
                f()
        assert bool(graphs[0]) == (backend != "reference")
        assert not graphs[-1], f"the compiled graph kept {graphs[-1]} when reference was forced"
