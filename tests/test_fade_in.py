import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels.ops import fade_in


def random(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


class TestFadeIn(OpTests):
    name = "fade_in"
    overloads = ("fade_in", "fade_in_adjoint")

    def samples(self):
        yield Sample({"image": random(2, 3, 4, 6), "lower": random(2, 3, 2, 3), "alpha": random() * 0 + 0.6})
        yield Sample({"image": random(2, 4, 4, 6, last=True), "lower": random(2, 4, 2, 3), "alpha": random()})
        rgb = {"weight": random(3, 5, 1, 1), "bias": random(3)}
        yield Sample({"image": random(2, 3, 4, 16), "lower": random(2, 5, 2, 8), **rgb}, {"alpha": 0.3})
        yield Sample({"image": random(1, 3, 3, 3), "lower": random(1, 4, 3, 3), "weight": random(3, 4)}, {"alpha": 1})
        yield Sample({"image": random(1, 8, 2, 2), "lower": random(1, 8, 2, 2), "alpha": random()})
        yield Sample({"image": random(1, 2, 9, 3), "lower": random(1, 2, 3, 1), "alpha": random()})
        yield Sample({"image": random(0, 3, 4, 4), "lower": random(0, 3, 2, 2)}, {"alpha": 0.0})

    def check_pruned(self, calls: Calls, wanted: str):
        asked = [list(args["wanted"]) for name, args in calls.seen if "fade_in_adjoint" in name]
        assert asked == [[wanted == name for name in ("image", "lower", "alpha")]]

    def bad(self):
        image, lower, weight = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3), torch.randn(3, 5)
        good = {"image": image, "lower": lower, "alpha": 0.5, "weight": weight}
        yield good | {"image": image.int()}, "image has dtype torch.int32"
        yield good | {"image": image[0]}, "image has shape"
        yield good | {"lower": None}, "lower is NoneType"
        yield good | {"lower": lower.double()}, "lower has dtype torch.float64, expected torch.float32 as image"
        yield good | {"lower": lower[0]}, "lower has shape"
        yield good | {"lower": lower[:1]}, r"lower has shape \[1, 5, 2, 3\], expected \[2, 5, H, W\]"
        yield good | {"lower": lower[..., :2]}, r"lower has shape \[2, 5, 2, 2\]"
        yield good | {"weight": None}, r"lower has shape \[2, 5, 2, 3\], expected \[2, 3, H, W\]"
        yield good | {"weight": None, "bias": torch.ones(3)}, "bias is a tensor and weight is None"
        yield good | {"weight": weight.T}, r"weight has shape \[5, 3\], expected \[3, 5, 1, 1\]"
        yield good | {"bias": torch.ones(5)}, r"bias has shape \[5\], expected \[3\]"
        yield good | {"alpha": 1.5}, "alpha is 1.5, expected 0 to 1"
        yield good | {"alpha": "1"}, "alpha is '1'"
        yield good | {"alpha": torch.ones(1)}, r"alpha has shape \[1\]"


def test_fade_in_by_the_book():
    image, lower, weight = random(2, 3, 4, 6), random(2, 5, 2, 3), random(3, 5, 1, 1)
    expected = 0.7 * F.interpolate(F.conv2d(lower, weight), scale_factor=2) + 0.3 * image
    torch.testing.assert_close(fade_in(image, lower, 0.3, weight), expected)
    assert fade_in(image, lower, 1.0, weight).equal(image)


backend = on_each_backend("fade_in")


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_memory_formats(backend, last):
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 8, 4, 6, device=OpTests.device(backend)).contiguous(memory_format=layout)
    lower = torch.randn(2, 8, 2, 3, device=x.device)
    assert fade_in(x, lower, 0.5).is_contiguous(memory_format=layout)


@pytest.mark.parametrize("alpha", [0.3, torch.tensor(0.3)], ids=["number", "constant tensor"])
def test_images_are_not_kept_for_a_constant(backend, alpha):
    x, lower = (torch.randn(2, 3, *size, device=OpTests.device(backend)).requires_grad_() for size in ((4, 6), (2, 3)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        fade_in(x, lower, alpha if isinstance(alpha, float) else alpha.to(x.device))
    assert backend == "reference" or sum(kept) <= 1, kept


def test_third_order(backend):
    leaves = [
        t.to(OpTests.device(backend)).requires_grad_() for t in (random(2, 3, 4, 2), random(2, 3, 2, 1), random())
    ]
    v = random(2, 3, 4, 2).to(leaves[0].device).requires_grad_()

    def derivatives():
        total = (fade_in(*leaves) * v).pow(3).sum()
        for _ in range(3):
            grads = torch.autograd.grad(total, [*leaves, v], create_graph=True)
            total = sum(g.square().sum() for g in grads)
        return grads

    ours = derivatives()
    with gankernels.backend("reference"):
        theirs = derivatives()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def all_derivatives(x, lower, alpha, g, v):
    """The value, all first derivatives, and all second ones: of the first in directions like the arguments."""
    leaves = [t.detach().requires_grad_() for t in (x, lower, alpha, g)]
    y = fade_in(*leaves[:3])
    first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
    second = torch.autograd.grad(first, leaves, [v, lower.detach(), alpha.detach()], allow_unused=True)
    zeros = map(torch.zeros_like, leaves)
    return [y, *first, *(z if t is None else t for t, z in zip(second, zeros, strict=True))]


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    st.integers(0, 3), st.integers(1, 70), st.integers(1, 5), st.integers(1, 40), st.integers(1, 4), st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 10**6),
)  # fmt: skip
@hypothesis.example(1, 700, 2, 2, 2, True, torch.float32, 0)
@hypothesis.example(1, 2, 3, 700, 2, False, torch.bfloat16, 0)
def test_any_shape(n, c, h, w, r, last, dtype, seed):
    torch.manual_seed(seed)
    x, g, v = (torch.randn(n, c, h * r, w * r).to(dtype) for _ in range(3))
    lower, alpha = torch.randn(n, c, h, w).to(dtype), torch.rand([]).to(dtype)
    if last:
        x, v = (t.contiguous(memory_format=torch.channels_last) for t in (x, v))
    tensors = x, lower, alpha, g, v
    with gankernels.backend("cpu"):
        ours = all_derivatives(*tensors)
    with gankernels.backend("reference"):
        theirs, truth = all_derivatives(*tensors), all_derivatives(*(t.double() for t in tensors))
    for i, (a, b, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, b, t, f"result {i}")
