"""filtered_lrelu against explicit loops and against its composition in float64, to every order of derivative."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample
from test_upfirdn2d import close, numbers, truth
from torch.utils._python_dispatch import TorchDispatchMode

import gankernels
from gankernels import backend, ops

CASES = {
    "up 2 down 2": ((6,), (6,), dict(up=2, down=2, padding=5)),
    "12 taps, clamp": ((12,), (12,), dict(up=2, down=2, padding=[11, 10, 10, 11], clamp=0.7)),
    "up 4 down 4": ((8,), (8,), dict(up=4, down=4, padding=[9, 8, 7, 10], gain=1.2, slope=0.1, clamp=0.9)),
    "up 4 down 2, not separable": ((5, 6), (4, 3), dict(up=4, down=2, padding=[4, 3, 5, 4], flip_filter=True)),
    "per axis": ((3, 4), (5,), dict(up=[3, 1], down=[1, 4], padding=[3, 4, 5, 4], slope=-0.5)),
    "no filters": (None, None, dict(up=[2, 1], down=[1, 2], slope=0.0)),
    "crop": ((4,), (3, 2), dict(up=2, down=1, padding=[-1, 2, 1, -2], gain=-1.5, clamp=1.0)),
    "no upsampling": (None, (4,), dict(down=3, padding=3, slope=2.0)),
    "no downsampling": ((4,), None, dict(up=2, padding=3, clamp=0.0)),
    "more than the taps": ((2,), (2, 2), dict(up=3, down=5, padding=4)),
}


def filters(name):
    fu, fd, kwargs = CASES[name]
    make = lambda taps, seed: None if taps is None else numbers(*taps, seed=seed, dtype=torch.float32) / len(taps)  # noqa: E731
    return make(fu, 11), make(fd, 12), kwargs


class TestFilteredLrelu(OpTests):
    name = "filtered_lrelu"
    overloads = ("filtered_lrelu", "filtered_lrelu_linear")
    layout_of = ("x",)

    def samples(self):
        for i, name in enumerate(CASES):
            fu, fd, kwargs = filters(name)
            tensors = {"x": numbers(2 if i == 0 else 1, 2, 4, 5, seed=i)}
            if i % 3 < 2:
                tensors["bias"] = numbers(2, seed=100 + i)
            fixed = {k: f for k, f in (("fu", fu), ("fd", fd)) if f is not None}
            yield Sample(tensors, kwargs, fixed, keep=("fu", "fd"))
        fu, fd, kwargs = filters("12 taps, clamp")
        fixed = {"fu": fu, "fd": fd}
        yield Sample({"x": numbers(0, 3, 5, 4), "bias": numbers(3)}, kwargs, fixed, keep=("fu", "fd"))
        yield Sample(
            {"x": numbers(1, 9, 1, 1), "bias": numbers(9)}, {**kwargs, "padding": 12}, fixed, keep=("fu", "fd")
        )

    def bad(self):
        x, f = torch.ones(1, 2, 8, 8), torch.ones(4)
        for change, message in (
            ({"x": torch.ones(2, 8, 8)}, "x has shape"),
            ({"x": torch.ones(1, 0, 8, 8)}, "x has shape"),
            ({"x": torch.ones(1, 2, 0, 8)}, "x has shape"),
            ({"x": x.int()}, "x has dtype"),
            ({"x": [1.0]}, "x is list"),
            ({"fu": torch.ones(1, 1, 1)}, "fu has shape"),
            ({"fd": torch.ones(0)}, "fd has shape"),
            ({"fu": f.double()}, "fu has dtype"),
            ({"fd": f.int()}, "fd has dtype"),
            ({"fu": f.to("meta")}, "fu is on meta"),
            ({"fd": [1, 2]}, "fd is list"),
            ({"fu": torch.ones(12)}, r"fu has \[12, 12\] taps, more than the upsampled and padded image"),
            ({"fd": torch.ones(6, 2)}, r"fd has \[6, 2\] taps, more than the upsampled image \[5, 5\]"),
            ({"padding": -3}, "fu has"),
            ({"fu": f.clone().requires_grad_()}, "fu requires a gradient"),
            ({"fd": f.clone().requires_grad_()}, "fd requires a gradient"),
            ({"bias": torch.ones(3)}, r"bias has shape \[3\], expected \[2\]"),
            ({"bias": torch.ones(2, 1)}, "bias has shape"),
            ({"bias": torch.ones(2).double()}, "bias has dtype"),
            ({"bias": torch.ones(2).to("meta")}, "bias is on meta"),
            ({"up": 0}, "up is 0"),
            ({"up": -2}, "up is -2"),
            ({"down": [1, -1]}, "down is"),
            ({"down": 1.5}, "down is"),
            ({"padding": [1, 2, 3]}, "padding is"),
            ({"gain": float("inf")}, "gain is inf"),
            ({"slope": float("nan")}, "slope is nan"),
            ({"clamp": -1.0}, "clamp is -1"),
            ({"clamp": float("inf")}, "clamp is inf"),
        ):
            yield {"x": x, "fu": f, "fd": f, **change}, message

    def opcheck_args(self, overload, args):
        """The filters require no gradient: that is refused."""
        first = 3 if "linear" in overload else 2
        return tuple(a.detach() if first <= i < first + 4 and a is not None else a for i, a in enumerate(args))

    def check_pruned(self, calls: Calls, wanted: str):
        linear = [args for name, args in calls.seen if name.split("::")[1].startswith("filtered_lrelu_linear")]
        assert len(linear) == 1
        assert linear[0]["want_y"] == (wanted == "x")
        assert linear[0]["want_sums"] == (wanted == "bias")


@pytest.fixture(params=["reference", "cpu"])
def forced(request):
    with backend(request.param):
        yield request.param


def looped(x, fu, fd, bias, up, down, padding, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False):
    """The definition, its resamplings by the loops over samples and taps of test_upfirdn2d."""
    one = torch.ones(1, 1)
    fu, fd = (one if f is None else f for f in (fu, fd))
    ux, uy = (up, up) if isinstance(up, int) else up
    pads = [padding] * 4 if isinstance(padding, int) else padding
    y = truth(x.double() + bias.double()[:, None, None], fu, up, 1, pads, flip_filter, ux * uy)
    y = torch.where(y > 0, y, slope * y) * gain
    return truth(y if clamp is None else y.clamp(-clamp, clamp), fd, 1, down, (0, 0, 0, 0), flip_filter)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values(forced, name, dtype):
    fu, fd, kwargs = filters(name)
    for shape in ((2, 3, 9, 17), (1, 4, 20, 11)):
        x, b = numbers(*shape, dtype=dtype), numbers(shape[1], seed=3, dtype=dtype)
        y = ops.filtered_lrelu(x, fu, fd, b, **kwargs)
        assert y.dtype == dtype
        expected = looped(x, fu, fd, b, **{"up": 1, "down": 1, "padding": 0, **kwargs})
        close(y, expected, dtype)


def derivatives(x, fu, fd, b, kwargs):
    """Value, first and second order."""
    y = ops.filtered_lrelu(x, fu, fd, b, **kwargs)
    gy = numbers(*y.shape, seed=7).to(x.dtype).requires_grad_()
    first = torch.autograd.grad(y, [x, b], gy, create_graph=True)
    total = first[0].square().sum() + (first[1] ** 3).sum()
    (second,) = torch.autograd.grad(total, [gy], create_graph=True)
    (third,) = torch.autograd.grad((second**3).sum(), [gy])
    return [t.detach() for t in (y, *first, second, third)]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_arguments(data):
    whole = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    taps = st.none() | st.tuples(st.integers(1, 14)) | st.tuples(st.integers(1, 6), st.integers(1, 6))
    fu, fd = (None if t is None else numbers(*t, seed=i) / t[0] for i, t in enumerate(data.draw(st.tuples(taps, taps))))
    up, down = ([whole(1, 4), whole(1, 4)] for _ in range(2))
    padding = [whole(-6, 12) for _ in range(4)]
    shape = [whole(1, 2), whole(1, 9), whole(1, 40), whole(1, 40)]
    kwargs = dict(up=up, down=down, padding=padding, flip_filter=data.draw(st.booleans()))
    kwargs |= dict(gain=data.draw(st.sampled_from([1.4, -0.7])), slope=data.draw(st.sampled_from([0.2, 0.0, -1.0])))
    kwargs |= dict(clamp=data.draw(st.sampled_from([None, 0.5])))
    for axis in range(2):
        ku, kd = ((1, 1) if f is None else (f.shape[0], f.shape[-1]) for f in (fu, fd))
        middle = shape[2 + axis] * up[1 - axis] + sum(padding[2 - 2 * axis :][:2]) - ku[axis] + 1
        assume(middle >= kd[axis])
    x, b = numbers(*shape), numbers(shape[1], seed=2)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    with backend("reference"):
        expected = derivatives(x.requires_grad_(), fu, fd, b.requires_grad_(), kwargs)
    with backend("cpu"):
        found = derivatives(x, fu, fd, b, kwargs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * max(1, theirs.abs().max().item()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "few channels_last", "short rows", "expanded"])
def test_gradients_in_other_layouts(forced, dtype, layout):
    for name in CASES:
        fu, fd, kwargs = filters(name)
        shape = (
            (2, 3, 9, 70) if layout == "few channels_last" else (2, 70, 9, 6) if "short" in layout else (2, 21, 9, 19)
        )
        x, b = numbers(*shape, dtype=dtype), numbers(shape[1], seed=2, dtype=dtype)
        if "channels_last" in layout:
            x = x.contiguous(memory_format=torch.channels_last)
        if layout == "expanded":
            x = x[:, :1].expand_as(x)
        x64, b64 = x.double().requires_grad_(), b.double().requires_grad_()
        with backend("reference"):
            y64 = ops.filtered_lrelu(x64, fu, fd, b64, **kwargs)
            g = numbers(*y64.shape, seed=4, dtype=dtype)
            expected = torch.autograd.grad(y64, [x64, b64], g.double())
        leaves = [x.detach().requires_grad_(), b.requires_grad_()]
        found = torch.autograd.grad(ops.filtered_lrelu(leaves[0], fu, fd, leaves[1], **kwargs), leaves, g)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            assert (ours.double() - theirs).abs().max() <= (2e-5 + torch.finfo(dtype).eps) * theirs.abs().max()


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_upsampled_image_is_never_stored(layout):
    """Neither as a tensor of an operator nor inside one: the allocator's peak says so too."""
    f = ops.setup_filter([1, 2, 3, 4, 4, 3, 2, 1])
    x = numbers(2, 16, 96, 96, dtype=torch.float32).contiguous(memory_format=layout).requires_grad_()
    b = numbers(16, seed=1, dtype=torch.float32).requires_grad_()
    image = 2 * 16 * (4 * 96) ** 2 * 4
    with backend("cpu"), Largest() as largest:
        y = ops.filtered_lrelu(x, f, f, b, up=4, down=4, padding=7, clamp=1.0)
        gy = torch.ones_like(y).requires_grad_()
        first = torch.autograd.grad(y, [x, b], gy, create_graph=True)
        torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), [gy])
    assert largest.bytes < image // 14  # the bits, or x
    with torch.profiler.profile(profile_memory=True) as profile, backend("cpu"):
        ops.filtered_lrelu(x, f, f, b, up=4, down=4, padding=7, clamp=1.0).sum().backward()
    peak = max(event.cpu_memory_usage for event in profile.key_averages())
    assert peak < image // 2


def test_two_bits_are_all_that_is_kept():
    x = numbers(1, 3, 8, 10, dtype=torch.float32).requires_grad_()
    f = torch.ones(4) / 4
    kept = []

    def keep(t):
        kept.append(t)
        return t

    with backend("cpu"), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        ops.filtered_lrelu(x, f, f, up=2, down=2, padding=3)
    assert sorted((t.dtype, tuple(t.shape)) for t in kept if t.dtype == torch.uint8) == [(torch.uint8, (1, 3, 19, 6))]
    assert all(t.dtype == torch.uint8 or t.shape == f.shape for t in kept)


def test_threads_and_pieces_of_a_plane_agree():
    """One plane, cut in pieces for the threads: the pieces' borders show nowhere."""
    f = numbers(12, seed=1, dtype=torch.float32)
    x, b = (
        numbers(1, 1, 200, 40, dtype=torch.float32).requires_grad_(),
        numbers(1, dtype=torch.float32).requires_grad_(),
    )
    n, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = ops.filtered_lrelu(x, f, f, b, up=2, down=2, padding=11, clamp=2.0)
            results.append([y, *torch.autograd.grad(y.square().sum(), [x, b])])
    finally:
        torch.set_num_threads(n)
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            assert torch.equal(ours, theirs)


def test_at_the_clamp_and_at_zero():
    """Where the value is the clamp itself the gradient passes, as in torch.clamp; at zero the slope applies."""
    x = torch.tensor([-4.0, -2.0, 0.0, 1.0, 1.5]).view(1, 1, 1, 5).requires_grad_()
    for name in ("reference", "cpu"):
        with backend(name):
            y = ops.filtered_lrelu(x, gain=1, slope=0.5, clamp=1.0)
            (g,) = torch.autograd.grad(y.sum(), x)
        assert y.flatten().tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
        assert g.flatten().tolist() == [0.0, 0.5, 0.5, 1.0, 0.0]


def test_not_numbers_spread_as_they_do_in_the_composition(forced):
    f = torch.tensor([1.0, 2.0, 1.0])
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = float("nan")
    y = ops.filtered_lrelu(x, f, f, up=2, down=2, padding=2, clamp=1.0)
    assert y.isnan().any()
    with backend("reference"):
        assert torch.equal(y.isnan(), ops.filtered_lrelu(x, f, f, up=2, down=2, padding=2, clamp=1.0).isnan())


def test_batched_cotangents():
    """vmap of the backward: for x alone the cotangents join the batch, for the bias each has sums of its own."""
    f = numbers(4, seed=1)
    x, b = numbers(2, 3, 6, 7).requires_grad_(), numbers(3, seed=2).requires_grad_()
    with backend("cpu"):
        y = ops.filtered_lrelu(x, f, f, b, up=2, down=2, padding=3)
    gs = numbers(4, *y.shape, seed=3)
    for leaves in ([x], [x, b], [b]):
        batched = torch.autograd.grad(y, leaves, gs, is_grads_batched=True, retain_graph=True)
        each = [torch.autograd.grad(y, leaves, g, retain_graph=True) for g in gs]
        for ours, expected in zip(batched, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(ours, torch.stack(expected))


def test_the_compiled_operators_refuse_a_filter_that_learns():
    if gankernels.why_not("cpu", "cpu"):
        pytest.skip(gankernels.why_not("cpu", "cpu"))
    x, f = torch.ones(1, 1, 4, 4), torch.ones(1, 1, requires_grad=True)
    with pytest.raises(RuntimeError, match="a filter requires a gradient"):
        torch.ops.gankernels_native.filtered_lrelu(
            x, None, f, None, f.detach(), None, [1, 1], [1, 1], [0] * 4, False, 1.0, 0.2, -1.0
        )


def test_autocast_casts_bias_and_filters():
    x, f = numbers(1, 2, 8, 8, dtype=torch.bfloat16), numbers(4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.filtered_lrelu(x, f.double(), f, torch.ones(2), up=2, down=2, padding=3)
    assert torch.equal(y, ops.filtered_lrelu(x, f, f, torch.ones(2, dtype=torch.bfloat16), up=2, down=2, padding=3))
