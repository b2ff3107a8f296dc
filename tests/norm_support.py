"""What the tests of the normalisations share, batch_norm_act's own aside: all run on its derivatives."""

import pytest
import torch
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference

import gankernels

CHANNELS_LAST = torch.channels_last


def images(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64) * 1.3 + 0.2
    return x.contiguous(memory_format=CHANNELS_LAST) if last else x


def spread(*shape):
    """Numbers of both signs, one zero among them."""
    return torch.linspace(0.6, -1.4, torch.Size(shape).numel(), dtype=torch.float64).mul(5).round().div(5).view(shape)


def running(channels):
    return {"running_mean": torch.rand(channels).double(), "running_var": torch.rand(channels).double() + 0.5}


class NormTests(OpTests):
    layout_of = ("x",)
    parameters = ("weight", "bias")

    def check_pruned(self, calls: Calls, wanted: str):
        backward = [args for name, args in calls.seen if "batch_norm_act_backward" in name]
        assert len(backward) == 1
        assert list(backward[0]["wanted"]) == [wanted == name for name in ("x", *self.parameters)]

    def opcheck_args(self, overload, args):
        """What has no derivative: statistics, and every argument of the second derivative, whose own is refused."""
        if "double_backward" in overload:
            return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
        space, name = overload.split(".")[:2]
        names = [a.name for a in getattr(getattr(torch.ops, space), name).default._schema.arguments]
        fixed = ("mean", "invstd", "running_mean", "running_var")
        return tuple(a.detach() if n in fixed and a is not None else a for n, a in zip(names, args, strict=True))

    def large(self) -> list[Sample]:
        """Calls that cross tiles and blocks."""
        raise NotImplementedError

    def derivatives(self, s: Sample) -> dict[str, torch.Tensor]:
        """The value, the gradients, and those of a sum of them with numbers of both signs."""
        s = s.fresh()
        y = self.call(s)
        gy = torch.linspace(-1, 1, y.numel()).sin().view(y.shape).to(y).requires_grad_()
        first = torch.autograd.grad(y, list(s.tensors.values()), gy, create_graph=True)
        directions = [torch.linspace(-2, 2, g.numel()).cos().view(g.shape).to(g) for g in first]
        leaves = {**s.tensors, "gy": gy}
        second = torch.autograd.grad(
            first, list(leaves.values()), directions, allow_unused=True, materialize_grads=True
        )
        out = {"y": y, **{f"d{k}": g for k, g in zip(s.tensors, first, strict=True)}}
        return out | {f"dd{k}": g for k, g in zip(leaves, second, strict=True)}

    def check_derivatives(self, backend, samples, dtype):
        torch.manual_seed(0)
        for s in samples:
            s = s.to(self.device(backend), dtype)
            ours = self.derivatives(s)
            with gankernels.backend("reference"):
                theirs, truth = self.derivatives(s), self.derivatives(s.to("cpu", torch.float64))
            for k in truth:
                shapes = {n: list(t.shape) for n, t in s.tensors.items()}
                assert_as_true_as_reference(ours[k], theirs[k], truth[k], f"{k} {shapes} {s.kwargs}")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
    def test_sizes_that_cross_tiles_and_blocks(self, backend, dtype):
        self.check_derivatives(backend, self.large(), dtype)

    def test_float32_parameters_beside_16_bits(self, backend):
        names = [n for n in self.parameters if n in self.first("cpu").tensors]
        s = self.first(backend, torch.bfloat16)
        if self.parameters_follow_x:
            pytest.skip("scale and shift have the dtype of x")

        def run(s, dtype):
            s = s.fresh()
            for n in names:
                s.tensors[n] = s.tensors[n].detach().to(dtype).requires_grad_()
            s.fixed = {k: t.to(dtype) for k, t in s.fixed.items()}  # running statistics share their dtype
            return self.gradients(self.call(s), s)

        ours = run(s, torch.float32)
        with gankernels.backend("reference"):
            theirs, truth = run(s, torch.float32), run(s.to("cpu", torch.float64), torch.float64)
        assert all(ours[n].dtype == torch.float32 for n in names)
        for k in truth:
            assert_as_true_as_reference(ours[k], theirs[k], truth[k], k)

    parameters_follow_x = False

    def test_second_order_computes_only_what_is_asked_for(self, backend):
        if backend == "reference":
            pytest.skip("reference leaves pruning to PyTorch")
        s = self.first(backend)
        y = self.call(s)
        first, name = next(iter(s.tensors)), list(s.tensors)[-1]
        (g,) = torch.autograd.grad(y.square().sum(), [s.tensors[first]], create_graph=True)
        calls = Calls()
        with calls:
            torch.autograd.grad(g.square().sum(), [s.tensors[name]])
        second = [args for op, args in calls.seen if "double_backward" in op]
        assert second
        assert not any(args["wanted"][1] and name != first for args in second)

    def test_third_order_is_refused_by_name(self, backend):
        if backend == "reference":
            pytest.skip("reference has every order")
        s = self.first(backend)
        x = next(iter(s.tensors.values()))
        (g,) = torch.autograd.grad(self.call(s).pow(3).sum(), [x], create_graph=True)
        (h,) = torch.autograd.grad(g.pow(2).sum(), [x], create_graph=True)
        with pytest.raises(RuntimeError, match="batch_norm_act: the derivative of order 3 is not supported"):
            torch.autograd.grad(h.sum(), [x])

    def test_gradients_of_a_batch_of_cotangents(self, backend):
        """`is_grads_batched` maps over backward."""
        s = self.first(backend)
        y, leaves = self.call(s), list(s.tensors.values())
        gys = torch.randn(4, *y.shape).to(y)
        together = torch.autograd.grad(y, leaves, gys, is_grads_batched=True, retain_graph=True)
        for i, gy in enumerate(gys):
            for a, b in zip(together, torch.autograd.grad(y, leaves, gy, retain_graph=True), strict=True):
                torch.testing.assert_close(a[i], b, rtol=1e-5, atol=1e-5)

    def test_mean_far_above_the_deviation(self, backend):
        """float32 numbers around 1e4 with deviation 1: exact to what x itself resolves."""
        for s in self.on(backend, torch.float32)[:3]:
            name = next(iter(s.tensors))
            s.tensors[name] = (s.tensors[name].detach() + 1e4).requires_grad_()
            if not s.kwargs.get("training", True):
                continue
            ours = self.call(s)
            with gankernels.backend("reference"):
                truth = self.call(s.to("cpu", torch.float64))
            torch.testing.assert_close(ours.double().cpu(), truth, rtol=1e-4, atol=1e-2)


class BatchStatistics(NormTests):
    """Those with running statistics."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
    def test_running_statistics(self, backend, dtype):
        """As PyTorch's: unbiased variance, float32 beside 16-bit x; in evaluation nothing moves."""
        s = self.first(backend, dtype)
        tensors = {k: t.detach() for k, t in s.tensors.items()}
        if not self.parameters_follow_x:
            tensors |= {n: tensors[n].float() for n in self.parameters}
        c = tensors["x"].shape[1]
        ours = {k: t.float().to(tensors["x"].device) for k, t in running(c).items()}
        theirs = {k: t.clone() for k, t in ours.items()}
        for _ in range(3):
            self.op(**tensors, **ours, training=True, momentum=0.3)
            torch.nn.functional.batch_norm(tensors["x"], **theirs, training=True, momentum=0.3)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        kept = {k: t.clone() for k, t in ours.items()}
        self.op(**tensors, **ours, training=False)
        self.op(**{k: t[:0] for k, t in tensors.items()}, **ours, training=True)
        assert all(kept[k].equal(ours[k]) for k in kept)

    def bad_running(self, good):
        c = good["x"].shape[1]
        one = torch.ones(c)
        good = good | {"running_mean": one, "running_var": one, "training": True}
        yield good | {"running_var": None}, "of running_mean and running_var one is None"
        yield good | {"running_mean": None, "running_var": None, "training": False}, "running_mean is None"
        yield good | {"running_mean": one.clone().requires_grad_()}, "running_mean requires grad"
        yield good | {"running_var": torch.ones(c + 1)}, rf"running_var has shape \[{c + 1}\], expected \[{c}\]"
        yield good | {"running_mean": one.to("meta")}, "running_mean is on meta"
        yield good | {"running_var": one.half()}, "running_var has dtype torch.float16"
        yield good | {"momentum": float("nan")}, "momentum is nan"
        yield good | {"eps": -1.0}, "eps is -1.0"
        yield good | {"act": "gelu"}, "act is 'gelu'"
        yield good | {"gain": float("inf")}, "gain is inf"
