import hypothesis
import torch
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels.ops import add_noise


def random(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


class TestAddNoise(OpTests):
    name = "add_noise"
    overloads = ("add_noise", "add_noise_sums")

    def samples(self):
        yield Sample({"x": random(2, 3, 4, 5), "noise": random(2, 1, 4, 5), "strength": random(3)})
        yield Sample({"x": random(2, 3, 4, 5, last=True), "noise": random(4, 5), "strength": random()})
        yield Sample({"x": random(2, 3, 1, 1), "noise": random(1, 1, 1, 1)}, {"strength": -0.5})
        yield Sample({"x": random(2, 4, 3, 8), "noise": random(1, 1, 3, 8), "strength": random()})
        yield Sample({"x": random(1, 8, 3, 2, last=True), "noise": random(1, 1, 3, 2), "strength": random(8)})
        yield Sample({"x": random(0, 3, 4, 4), "noise": random(0, 1, 4, 4), "strength": random(3)})

    def check_pruned(self, calls: Calls, wanted: str):
        sums = [list(args["wanted"]) for name, args in calls.seen if "add_noise_sums" in name]
        assert sums == {"x": [], "noise": [[True, False]], "strength": [[False, True]]}[wanted]

    def bad(self):
        x, noise = torch.randn(2, 3, 4, 5), torch.randn(4, 5)
        good = {"x": x, "noise": noise, "strength": 1.0}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": x[0]}, "x has shape"
        yield good | {"noise": None}, "noise is NoneType"
        yield good | {"noise": noise.double()}, "noise has dtype torch.float64"
        yield good | {"noise": noise.to("meta")}, "noise is on meta"
        yield (
            good | {"noise": noise.T},
            r"noise has shape \[5, 4\], expected \[2, 1, 4, 5\], \[1, 1, 4, 5\] or \[4, 5\]",
        )
        yield good | {"strength": torch.ones(4)}, r"strength has shape \[4\], expected \[\] or \[3\]"
        yield good | {"strength": torch.ones(3).double()}, "strength has dtype"
        yield good | {"strength": float("nan")}, "strength is nan"


def test_add_noise_by_the_book():
    x, noise, strength = random(2, 3, 4, 5), random(2, 1, 4, 5), random(3)
    torch.testing.assert_close(add_noise(x, noise, strength), x + noise * strength.view(1, 3, 1, 1))


backend = on_each_backend("add_noise")


def test_memory_format_is_kept(backend):
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend))
    noise = torch.randn(4, 6, device=x.device)
    assert add_noise(x, noise, 0.5).is_contiguous()
    x = x.contiguous(memory_format=torch.channels_last)
    assert add_noise(x, noise, 0.5).is_contiguous(memory_format=torch.channels_last)


def test_third_order(backend):
    x, noise, strength = (
        t.to(OpTests.device(backend)).requires_grad_() for t in (random(2, 3, 2, 2), random(2, 1, 2, 2), random(3))
    )
    v = random(2, 3, 2, 2).to(x.device).requires_grad_()

    def derivatives():
        total = (add_noise(x, noise, strength) * v).pow(3).sum()
        for _ in range(3):
            grads = torch.autograd.grad(total, [x, noise, strength, v], create_graph=True)
            total = sum(g.square().sum() for g in grads)
        return grads

    ours = derivatives()
    with gankernels.backend("reference"):
        theirs = derivatives()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.integers(0, 3), st.integers(1, 70), st.integers(0, 5), st.integers(0, 70), st.booleans(), st.booleans(),
    st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 10**6),
)  # fmt: skip
def test_any_shape(n, c, h, w, each, one, last, dtype, seed):
    torch.manual_seed(seed)
    x, v, gy = (torch.randn(n, c, h, w).to(dtype) for _ in range(3))
    noise, strength = torch.randn(n if each else 1, 1, h, w).to(dtype), torch.randn([] if one else c).to(dtype)
    if last:
        x, v = (t.contiguous(memory_format=torch.channels_last) for t in (x, v))

    def run(*tensors):
        x, noise, strength, gy, v = (t.detach().requires_grad_() for t in tensors)
        leaves = [x, noise, strength]
        y = add_noise(x, noise, strength)
        first = torch.autograd.grad(y, leaves, gy, create_graph=True)
        second = torch.autograd.grad(first, [*leaves, gy], [v, noise.detach(), strength.detach()], allow_unused=True)
        return [y, *first, *(torch.zeros_like(t) if s is None else s for s, t in zip(second, tensors, strict=False))]

    tensors = x, noise, strength, gy, v
    with gankernels.backend("cpu"):
        ours = run(*tensors)
    with gankernels.backend("reference"):
        theirs, truth = run(*tensors), run(*(t.double() for t in tensors))
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
