import pytest
import torch
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference
from torch.nn.utils import parametrizations

import gankernels
from gankernels import ops


def vectors(weights, first, seed=3):
    """A unit vector for each weight, of its first dimension or of the others together."""
    lengths = [w.shape[0] if first else w.numel() // w.shape[0] for w in weights]
    draw = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(n, generator=draw, dtype=torch.float64), dim=0) for n in lengths]


def sample(*shapes, classic=False, **kwargs):
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    fixed = {f"u{i}": u for i, u in enumerate(vectors(weights, True))}
    if not classic:
        fixed |= {f"v{i}": v for i, v in enumerate(vectors(weights, False))}
    return Sample({f"w{i}": w for i, w in enumerate(weights)}, kwargs, fixed)


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


class TestSpectralNorm(OpTests):
    name = "spectral_norm"
    overloads = ("spectral_norm", "spectral_norm_backward", "spectral_norm_double_backward")
    skip_vmap = "a mapped list of weights is a longer list"

    def op(self, **kwargs):
        """The call of lists w0, w1, ..., u0, ..., v0, ...; the results one after the other."""
        lists = {name: [kwargs.pop(k) for k in sorted(kwargs) if k[0] == name and k[1:].isdigit()] for name in "wuv"}
        if not lists["w"]:
            return ops.spectral_norm(**kwargs)
        return flat(ops.spectral_norm(lists["w"], lists["u"], lists["v"] or None, **kwargs)[0])

    def samples(self):
        yield sample((4, 3, 2, 2), (5, 7))
        yield sample((3, 2, 3, 3), (1, 6), (6, 1), iterations=3)
        yield sample((4, 6), (2, 3, 5), classic=True)
        yield sample((4, 6), (2, 3, 5), classic=True, iterations=2)
        yield sample((2, 1), (3, 4), iterations=0)
        yield sample((3, 2, 2), iterations=0)
        yield sample((5, 4, 1, 1), classic=True)
        yield sample((8, 8), eps=0.5)

    def on(self, backend, dtype):
        samples = super().on(backend, dtype)[: self.only]
        return [s for s in samples if not self.constant or s.kwargs.get("iterations") == 0]

    def batched(self, tensors):
        return set()

    constant, only = False, None

    def test_opcheck(self, backend):
        self.only = 1
        super().test_opcheck(backend)

    def test_gradcheck(self, backend):
        """Where u and v do not follow the weights: elsewhere finite differences are not the derivative meant."""
        self.constant = True
        super().test_gradcheck(backend)

    def bad(self):
        w, u, v = torch.randn(3, 2, 2), torch.randn(3), torch.randn(4)
        yield {"weights": w, "us": [u]}, "weights is Tensor, expected a list"
        yield {"weights": [], "us": []}, "weights is empty"
        yield {"weights": [w, 1.0], "us": [u, u]}, r"weights\[1\] is float"
        yield {"weights": [w.int()], "us": [u]}, r"weights\[0\] has dtype torch.int32"
        yield (
            {"weights": [w, w.double()], "us": [u, u]},
            r"weights\[1\] has dtype torch.float64, expected torch.float32",
        )
        yield {"weights": [w, torch.randn(3)], "us": [u, u]}, r"weights\[1\] has shape \[3\], expected 2 or more"
        yield {"weights": [torch.randn(3, 0)], "us": [u]}, "none of them 0"
        yield {"weights": [w], "us": [u, u]}, "us has 2 tensors, expected 1"
        yield {"weights": [w], "us": [v]}, r"us\[0\] has shape \[4\], expected \[3\]"
        yield {"weights": [w], "us": [u.double()]}, r"us\[0\] has dtype torch.float64"
        yield {"weights": [w.half()] * 2, "us": [u, u.half()]}, r"us\[1\] has dtype torch.float16"
        yield {"weights": [w], "us": [u], "vs": [u]}, r"vs\[0\] has shape \[3\], expected \[4\]"
        yield {"weights": [w], "us": [u], "vs": v}, "vs is Tensor, expected a list"
        yield {"weights": [w], "us": [u], "iterations": -1}, "iterations is -1"
        yield {"weights": [w], "us": [u], "iterations": 1.0}, "iterations is 1.0"
        yield {"weights": [w], "us": [u], "eps": 0.0}, "eps is 0.0, expected more than 0"
        yield {"weights": [w], "us": [u], "eps": float("nan")}, "eps is nan"
        yield {"weights": [w, w.to("meta")], "us": [u, u]}, r"weights\[1\] is on meta"

    def check_pruned(self, calls: Calls, wanted: str):
        lists = [args["g"] for name, args in calls.seen if "gankernels_native::spectral_norm_backward" in name]
        assert len(lists) == (0 if any("gankernels::" in n for n in calls.names()) else 1)
        assert all(len(g) == 1 for g in lists), "gradients of other weights were computed"

    def opchecks(self, backend):
        if backend == "triton":
            self.overloads = tuple("packed_" + name for name in type(self).overloads)
        yield from super().opchecks(backend)

    def opcheck_args(self, overload, args):
        """Lists are copied tensor by tensor; the last derivative there is needs no further one."""
        last = "double_backward" in overload

        def ready(a):
            if isinstance(a, list) and isinstance(a[0], torch.Tensor):
                return [t.detach().clone().requires_grad_(not last) for t in a]
            return a.detach() if last and isinstance(a, torch.Tensor) else a

        return tuple(map(ready, args))

    def test_vectors_and_the_next_iteration(self, backend):
        """Two calls of one iteration are one of two; u and v are those of the reference; nothing is written."""
        weights = [torch.randn(6, 5, 3), torch.randn(4, 9)]
        weights = [w.to(self.device(backend)) for w in weights]
        for classic in (False, True):
            us, vs = ([t.to(weights[0]) for t in vectors(weights, first)] for first in (True, False))
            before = flat(us + vs)
            y, u, v = ops.spectral_norm(weights, us, None if classic else vs)
            y, u, v = ops.spectral_norm(weights, u, None if classic else v)
            twice = ops.spectral_norm(weights, us, None if classic else vs, iterations=2)
            with gankernels.backend("reference"):
                expected = ops.spectral_norm(weights, us, None if classic else vs, iterations=2)
            for a, b, c in zip((y, u, v), twice, expected, strict=True):
                torch.testing.assert_close(flat(a), flat(b))
                torch.testing.assert_close(flat(b), flat(c))
            assert torch.equal(before, flat(us + vs))
            assert not any(t.requires_grad for t in u + v)

    def test_third_order_raises_by_name(self, backend):
        w = torch.randn(3, 4, device=self.device(backend), requires_grad=True)
        u = torch.ones(3, device=w.device)
        (y,), _, _ = ops.spectral_norm([w], [u])
        (g,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
        (g,) = torch.autograd.grad(g.square().sum(), w, create_graph=True)
        if backend == "reference":
            assert torch.autograd.grad(g.sum(), w)[0].isfinite().all()
        else:
            with pytest.raises(RuntimeError, match="spectral_norm: the derivative of order 3"):
                torch.autograd.grad(g.sum(), w)

    def test_results_that_are_not_used(self, backend):
        """One weight's result alone has a gradient, and one used weight leaves the others without any."""
        s = self.first(backend)
        weights = list(s.tensors.values())
        us, vs = ([s.fixed[f"{n}{i}"] for i in range(len(weights))] for n in "uv")
        for used in range(len(weights)):
            ys, _, _ = ops.spectral_norm(weights, us, vs)
            grads = torch.autograd.grad(ys[used].square().sum(), weights, allow_unused=True)
            (alone,), _, _ = ops.spectral_norm([weights[used]], [us[used]], [vs[used]])
            (expected,) = torch.autograd.grad(alone.square().sum(), weights[used])
            torch.testing.assert_close(grads[used], expected)
            assert all(g is None or not g.any() for i, g in enumerate(grads) if i != used)

    def test_vectors_in_the_weights_dtype(self, backend):
        w = torch.randn(6, 10, device=self.device(backend)).bfloat16()
        us, vs = ([t.to(w) for t in vectors([w], first)] for first in (True, False))
        (y,), (u,), (v,) = ops.spectral_norm([w], us, vs)
        assert (y.dtype, u.dtype, v.dtype) == (torch.bfloat16,) * 3
        (wide,), _, _ = ops.spectral_norm([w], [us[0].float()], [vs[0].float()])
        torch.testing.assert_close(y, wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_wide_weights_in_pieces(dtype):
    """Shapes that cross blocks and runs of rows on the CPU; derivatives of both orders."""
    weights = [torch.randn(s).to(dtype) for s in [(67, 1031), (1, 5000), (3000, 3), (64, 33, 3, 3)]]
    us, vs = ([t.to(torch.promote_types(dtype, torch.float32)) for t in vectors(weights, f)] for f in (True, False))
    draw = [torch.randn(w.shape).to(dtype) for w in weights]

    def run(weights, us, vs):
        weights = [w.detach().requires_grad_() for w in weights]
        ys, u, v = ops.spectral_norm(weights, us, vs)
        gy = [d.to(w.dtype).requires_grad_() for d, w in zip(draw, weights, strict=True)]
        first = torch.autograd.grad(ys, weights, gy, create_graph=True)
        second = torch.autograd.grad(first, weights + gy, [g.detach().cos() for g in gy])
        return [*ys, *u, *v, *first, *second]

    with gankernels.backend("cpu"):
        ours = run(weights, us, vs)
    with gankernels.backend("reference"):
        theirs = run(weights, us, vs)
        truth = run(*([t.double() for t in ts] for ts in (weights, us, vs)))
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equals_pytorch(backend):
    layers = [torch.nn.Conv2d(3, 5, 3), torch.nn.Linear(7, 4)]
    weights = [layer.weight.detach().clone().requires_grad_() for layer in layers]
    for layer in layers:
        parametrizations.spectral_norm(layer, n_power_iterations=2)
    us, vs = ([getattr(m.parametrizations.weight[0], n).clone() for m in layers] for n in ("_u", "_v"))
    with gankernels.backend(backend):
        ys, us, vs = ops.spectral_norm(weights, us, vs, iterations=2)
        grads = torch.autograd.grad(flat(ys).sin().sum(), weights)
    theirs = [layer.weight for layer in layers]
    originals = [layer.parametrizations.weight.original for layer in layers]
    expected = torch.autograd.grad(flat(theirs).sin().sum(), originals)
    for a, b in zip([*ys, *grads], [*theirs, *expected], strict=True):
        torch.testing.assert_close(a, b)
    for layer, u, v in zip(layers, us, vs, strict=True):
        torch.testing.assert_close(u, layer.parametrizations.weight[0]._u)
        torch.testing.assert_close(v, layer.parametrizations.weight[0]._v)
