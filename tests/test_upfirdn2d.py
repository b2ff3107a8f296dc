"""upfirdn2d and its helpers against an explicit loop, on every backend that can run here."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample
from torch import Tensor

from gankernels import backend, ops, why_not
from gankernels.ops.upfirdn2d import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def truth(x, f, up=1, down=1, padding=(0, 0, 0, 0), flip_filter=False, gain=1.0):
    """The definition as loops over output samples and taps, in float64."""
    x, f = x.detach().double().cpu().numpy(), f.detach().double().cpu().numpy()
    (ux, uy), (dx, dy) = (np.broadcast_to(v, 2) for v in (up, down))
    f = np.outer(f, f) if f.ndim == 1 else f
    if not flip_filter:
        f = f[::-1, ::-1]
    x0, x1, y0, y1 = padding
    n, c, h, w = x.shape
    kh, kw = f.shape
    y = np.zeros((n, c, (h * uy + y0 + y1 - kh + dy) // dy, (w * ux + x0 + x1 - kw + dx) // dx))
    for oy in range(y.shape[2]):
        for ox in range(y.shape[3]):
            for ky in range(kh):
                for kx in range(kw):
                    my, mx = oy * dy + ky - y0, ox * dx + kx - x0
                    if my % uy == 0 and mx % ux == 0 and 0 <= my // uy < h and 0 <= mx // ux < w:
                        y[:, :, oy, ox] += f[ky, kx] * x[:, :, my // uy, mx // ux]
    return torch.from_numpy(y * gain)


def close(ours: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps * (1 if dtype in (torch.bfloat16, torch.float16) else 32)
    assert ours.shape == expected.shape
    assert (ours.double().cpu() - expected).abs().max() <= eps * max(expected.abs().max(), 1)


@pytest.fixture(params=["reference", "cpu", "cuda", "triton"])
def forced(request):
    reason = why_not(request.param, DEVICE, "upfirdn2d")
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    with backend(request.param):
        yield request.param


CASES = {
    "blur": ((4, 4), dict(padding=[2, 1, 2, 1])),
    "blur separable": ((4,), dict(padding=[2, 1, 2, 1])),
    "up 2": ((4, 4), dict(up=2, padding=[2, 1, 2, 1], gain=4)),
    "up 2 separable": ((4,), dict(up=2, padding=[2, 1, 2, 1], gain=4)),
    "down 2": ((4, 4), dict(down=2, padding=[1, 1, 1, 1])),
    "down 2 separable": ((4,), dict(down=2, padding=[1, 1, 1, 1])),
    "up 2, 12 taps": ((12,), dict(up=2, padding=[6, 5, 6, 5])),
    "down 2, 12 taps": ((12,), dict(down=2, padding=[6, 5, 6, 5])),
    "up 4": ((8,), dict(up=4, padding=[5, 6, 7, 3], flip_filter=True)),
    "up 3 down 2": ((3, 5), dict(up=3, down=2, padding=[4, 3, 2, 5], gain=0.5)),
    "up 2 down 3 separable": ((7,), dict(up=2, down=3, padding=[4, 3, 2, 5], flip_filter=True)),
    "up 2 down 4": ((5,), dict(up=2, down=4, padding=[4, 4, 4, 4])),
    "per axis": ((2, 6), dict(up=[2, 1], down=[1, 2], padding=[3, -1, 0, 2], flip_filter=True, gain=2.5)),
    "crop": ((3,), dict(padding=[-1, -2, -2, -1])),
    "all before the crop is zero": ((2, 3), dict(padding=[-20, 25, -16, 20])),
    "negative gain, separable": ((4,), dict(padding=[2, 1, 2, 1], gain=-1.5)),
    "one row of taps": ((1, 5), dict(padding=[2, 2, 0, 0])),
    "down by more than the size": ((3, 3), dict(down=[40, 50], padding=[2, 2, 2, 2])),
}


class TestUpfirdn2d(OpTests):
    name = "upfirdn2d"
    overloads = ("upfirdn2d", "upfirdn2d_filter_grad")
    layout_of = ("x",)

    def samples(self):
        for name, (taps, kwargs) in CASES.items():
            size = (6, 7) if name == "crop" else (4, 5)
            if name == "down by more than the size":
                kwargs = {**kwargs, "down": [9, 8]}
            f = numbers(*taps, seed=1) / max(taps)
            yield Sample({"x": numbers(1 if len(taps) == 1 else 2, 1, *size), "filter": f}, kwargs)
        yield Sample({"x": numbers(0, 3, 5, 4), "filter": numbers(4)}, {"up": 2, "padding": 2})
        yield Sample({"x": numbers(2, 9, 1, 1), "filter": numbers(2, 2)}, {"padding": [1, 0, 0, 1]})
        yield Sample({"x": numbers(1, 2, 3, 4)}, {"filter": None, "up": [2, 1], "padding": -1, "gain": 3})

    def bad(self):
        x, f = torch.ones(1, 1, 4, 4), torch.ones(3)
        for change, message in (
            ({"x": torch.ones(3, 4, 4)}, "x has shape"),
            ({"x": torch.ones(1, 1, 0, 4)}, "x has shape"),
            ({"x": x.int()}, "x has dtype"),
            ({"x": [1.0]}, "x is list"),
            ({"filter": torch.ones(1, 1, 1)}, "filter has shape"),
            ({"filter": torch.ones(0)}, "filter has shape"),
            ({"filter": f.double()}, "filter has dtype"),
            ({"filter": f.bfloat16()}, "filter has dtype"),
            ({"filter": f.to("meta")}, "filter is on meta"),
            ({"filter": [1, 2]}, "filter is list"),
            ({"up": 0}, "up is 0"),
            ({"up": [1, 2, 3]}, "up is"),
            ({"up": 1.5}, "up is"),
            ({"down": [1, -1]}, "down is"),
            ({"padding": [1, 2, 3]}, "padding is"),
            ({"padding": 0.5}, "padding is"),
            ({"padding": -2}, "output would be empty"),
            ({"filter": torch.ones(5, 5)}, "output would be empty"),
            ({"gain": float("nan")}, "gain is nan"),
        ):
            yield {"x": x, "filter": f, **change}, message

    def test_opcheck(self, backend):
        if backend == "cpu":
            self.overloads = (*self.overloads, "upfirdn2d_factor_grads")
        super().test_opcheck(backend)

    def check_pruned(self, calls: Calls, wanted: str):
        names = [name.split("::")[1].split(".")[0] for name, _ in calls.seen]
        assert names.count("upfirdn2d") == (wanted == "x")
        of_filter = [n for n in names if n in ("upfirdn2d_filter_grad", "upfirdn2d_factor_grads")]
        assert len(of_filter) == (wanted == "filter")


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).to(DEVICE)


def padded(kwargs):
    return {"padding": (0, 0, 0, 0), **kwargs}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_values(forced, name, dtype):
    taps, kwargs = CASES[name]
    f = numbers(*taps, seed=1, dtype=torch.float32)
    for shape in ((2, 3, 13, 17), (1, 2, 20, 37), (0, 3, 9, 11)):
        x = numbers(*shape, dtype=dtype)
        y = ops.upfirdn2d(x, f, **kwargs)
        assert y.dtype == dtype
        expected = truth(x, f, **padded(kwargs))
        if expected.numel():
            close(y, expected, dtype)
        else:
            assert y.shape == expected.shape


@pytest.mark.parametrize("name", CASES)
def test_layouts(forced, name):
    taps, kwargs = CASES[name]
    f = numbers(*taps, seed=1, dtype=torch.float32)
    whole = numbers(3, 22, 20, 18, dtype=torch.float32)
    views = {
        "channels_last": whole.contiguous(memory_format=torch.channels_last),
        "sliced channels_last": whole.contiguous(memory_format=torch.channels_last)[:, 3:15, 2:, 1:],
        "few channels_last": whole[:, :3].contiguous(memory_format=torch.channels_last),
        "sliced": whole[1:, ::3, 1::2, 3:17],
        "transposed": whole.transpose(2, 3),
        "channel and row swapped": whole.transpose(1, 2),
        "expanded": whole[:, :, :1, :1].expand(-1, -1, 13, 15),
        "one channel": whole[:, :1],
    }
    for layout, x in views.items():
        y = ops.upfirdn2d(x, f, **kwargs)
        close(y, truth(x, f, **padded(kwargs)), torch.float32)
        if layout == "channels_last":
            assert y.is_contiguous(memory_format=torch.channels_last)
        if layout in ("sliced", "transposed", "expanded"):
            assert y.is_contiguous()


def test_tiny_and_wide(forced):
    f = numbers(4, seed=1, dtype=torch.float32)
    for shape in ((1, 1, 1, 1), (2, 130, 4, 4), (1, 3, 2, 9000), (1, 2, 5000, 1), (2, 65, 1, 3)):
        x = numbers(*shape, dtype=torch.float32)
        for kwargs in (
            dict(padding=[2, 1, 2, 1]),
            dict(up=2, padding=[2, 1, 2, 1]),
            dict(down=2, padding=[2, 1, 2, 1]),
        ):
            close(ops.upfirdn2d(x, f, **kwargs), truth_fast(x, f, **kwargs), torch.float32)


def truth_fast(x, f, **kwargs):
    with backend("reference"):
        return ops.upfirdn2d(x.double(), f.double(), **kwargs).cpu()


def test_reference_is_the_loop():
    for taps, kwargs in CASES.values():
        x, f = numbers(2, 2, 9, 11), numbers(*taps, seed=1)
        close(truth_fast(x, f, **kwargs), truth(x, f, **padded(kwargs)), torch.float64)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_arguments(data):
    small = st.integers(1, 5)
    size = [data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))]
    taps = data.draw(st.tuples(st.integers(1, 14)) | st.tuples(st.integers(1, 6), st.integers(1, 6)))
    up, down = ([data.draw(small), data.draw(small)] for _ in range(2))
    padding = [data.draw(st.integers(-8, 8)) for _ in range(4)]
    for axis in range(2):
        assume(size[1 - axis] * up[axis] + sum(padding[2 * axis :][:2]) >= taps[::-1][axis % len(taps)])
    kwargs = dict(up=up, down=down, padding=padding, flip_filter=data.draw(st.booleans()), gain=1.25)
    x = numbers(1, data.draw(st.integers(1, 3)), *size).requires_grad_()
    f = numbers(*taps, seed=1).requires_grad_()
    for name in ("reference", "cpu", "cuda", "triton"):
        if why_not(name, DEVICE, "upfirdn2d"):
            continue
        with backend(name):
            y = ops.upfirdn2d(x, f, **kwargs)
            expected = truth(x, f, **kwargs)
            close(y, expected, torch.float64)
            g = numbers(*y.shape, seed=2)
            grads = torch.autograd.grad(y, [x, f], g)
        if name == "reference":
            truths = grads
        for ours, theirs in zip(grads, truths, strict=True):
            close(ours, theirs.cpu(), torch.float64)


def test_filter_gradient_of_rows_in_pieces(forced):
    for taps, kwargs in (((5,), dict(up=2, padding=3)), ((7,), dict(down=2, padding=2)), ((3, 4), {"padding": 1})):
        for shape in ((1, 2, 3, 9000), (1, 20, 4, 700)):
            x, f = numbers(*shape), numbers(*taps, seed=1).requires_grad_()
            layout = torch.channels_last if shape[1] > 2 else torch.contiguous_format
            y = ops.upfirdn2d(x.contiguous(memory_format=layout), f, **kwargs)
            g = numbers(*y.shape, seed=2)
            with backend("reference"):
                (expected,) = torch.autograd.grad(ops.upfirdn2d(x, f, **kwargs), f, g)
            close(torch.autograd.grad(y, f, g)[0], expected.cpu(), torch.float64)


@pytest.mark.skipif(why_not("cpu", DEVICE, "upfirdn2d") is not None, reason="the factors are two on the CPU only")
@pytest.mark.parametrize("wanted", ["f", "fy", "both"])
@pytest.mark.parametrize("taps", [(3, 5), (12, 9), (1, 2)], ids=str)
def test_gradients_of_two_factors(wanted, taps):
    x = numbers(2, 3, 9, 8).requires_grad_()
    factors = {"f": numbers(taps[0], seed=1), "fy": numbers(taps[1], seed=2)}
    names = ["f", "fy"] if wanted == "both" else [wanted]
    leaves = [factors[n].requires_grad_() for n in names] + [x]
    settings_ = ([2, 1], [1, 3], [6, 7, 5, 6], False, 1.5)

    def derivatives(run):
        y = run(x, *factors.values(), *settings_)
        g = numbers(*y.shape, seed=3).requires_grad_()
        first = torch.autograd.grad(y, leaves, g, create_graph=True)
        return *first, *torch.autograd.grad(sum(t.pow(3).sum() for t in first), [*leaves, g])

    theirs = derivatives(reference)
    for ours, expected in zip(derivatives(torch.ops.gankernels_native.upfirdn2d), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)  # cubes of sums that cancel


def test_third_order(forced):
    x, f = numbers(1, 1, 4, 5).requires_grad_(), numbers(3, seed=1).requires_grad_()

    def second(x, f):
        y = ops.upfirdn2d(x, f, up=2, padding=[1, 2, 2, 1])
        gx, gf = torch.autograd.grad((y**3).sum(), [x, f], create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gf.square().sum(), [x, f], create_graph=True)

    assert torch.autograd.gradcheck(second, (x, f), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_gradients_in_low_precision(forced, dtype, layout):
    for taps, kwargs in CASES.values():
        x = numbers(2, 9, 13, 17, dtype=dtype)
        if layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        f = numbers(*taps, seed=1, dtype=torch.float32).requires_grad_()
        y = ops.upfirdn2d(x, f, **kwargs)
        g = torch.ones((), dtype=dtype, device=DEVICE).expand_as(y) if layout == "expanded" else torch.randn_like(y)
        gx, gf = torch.autograd.grad(y, [x, f], g)
        assert gx.dtype == dtype
        assert gf.dtype == torch.float32
        x64, f64 = x.detach().double().requires_grad_(), f.detach().double().requires_grad_()
        with backend("reference"):
            tx, tf = torch.autograd.grad(ops.upfirdn2d(x64, f64, **kwargs), [x64, f64], g.double())
            (rf,) = torch.autograd.grad(ops.upfirdn2d(x, f, **kwargs), f, g)
        close(gx, tx.cpu(), dtype)
        # Thousands of terms that cancel: float32's own rounding of such a sum, as the reference has it, comes on top.
        assert (gf - tf).abs().max() <= 2 * (rf - tf).abs().max() + 1e-5 * tf.abs().max()


def test_identity(forced):
    x = numbers(2, 3, 5, 4, dtype=torch.float32)
    assert torch.equal(ops.upfirdn2d(x, None), x)
    assert torch.equal(ops.upfirdn2d(x, None, padding=[-1, 0, 0, -2], gain=-2), -2 * x[:, :, :-2, 1:])
    assert torch.equal(ops.upfirdn2d(x, None, up=[2, 1], down=[1, 2])[..., ::2], x[:, :, ::2])


def test_helpers(forced):
    x, f = numbers(2, 3, 8, 6, dtype=torch.float32), ops.setup_filter([1, 3, 3, 1]).to(DEVICE)
    close(ops.filter2d(x, f), truth(x, f, padding=(2, 1, 2, 1)), torch.float32)
    close(ops.upsample2d(x, f), truth(x, f, up=2, padding=(2, 1, 2, 1), gain=4), torch.float32)
    close(ops.downsample2d(x, f), truth(x, f, down=2, padding=(1, 1, 1, 1)), torch.float32)
    one = torch.ones(1, 1, 8, 8, device=DEVICE)
    assert torch.allclose(ops.upsample2d(one, f, padding=-2), one.new_ones(1, 1, 12, 12))
    y = ops.upsample2d(x, f, up=[1, 3], gain=-1, padding=[1, 0, -1, 2], flip_filter=True)
    close(y, truth(x, f, up=(1, 3), padding=(3, 1, 2, 2), gain=-3, flip_filter=True), torch.float32)


def test_setup_filter():
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kept = taps.clone()
    f = ops.setup_filter(taps)
    assert torch.equal(f, torch.outer(taps, taps) / 64)
    assert torch.equal(ops.setup_filter(taps, normalize=False, separable=True), taps)
    assert ops.setup_filter(taps, normalize=False, separable=True).data_ptr() != taps.data_ptr()
    assert torch.equal(taps, kept)
    assert ops.setup_filter([1] * 8).shape == (8,)
    assert ops.setup_filter([1] * 8, separable=False).shape == (8, 8)
    assert ops.setup_filter(np.ones((3, 2))).shape == (3, 2)
    assert torch.allclose(ops.setup_filter([1] * 8, gain=4), torch.full((8,), 0.25))
    assert torch.equal(ops.setup_filter([1.0, 2, 3], normalize=False, separable=True, flip_filter=True),
                       torch.tensor([3.0, 2, 1]))  # fmt: skip
    assert torch.equal(ops.setup_filter(None), torch.ones(1, 1))
    assert ops.setup_filter([1, 2], gain=-3).sum() == -3
    learnt = taps.requires_grad_()
    ops.setup_filter(learnt).square().sum().backward()
    assert learnt.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: ops.setup_filter([]), "f has shape"),
        (lambda: ops.setup_filter(torch.ones(2, 2, 2)), "f has shape"),
        (lambda: ops.setup_filter([1, -1]), "sums to 0"),
        (lambda: ops.setup_filter(torch.ones(2, 2), separable=True), "separable"),
        (lambda: ops.setup_filter([1, 2], separable=True, gain=-1), "negative"),
        (lambda: ops.setup_filter([1j]), "real"),
    ],
)
def test_bad_setup_filter(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def test_mixed_dtypes(forced):
    f = numbers(4, seed=1)
    x = numbers(1, 2, 6, 7)
    expected = truth(x, f.float(), padding=(2, 1, 2, 1))
    close(ops.upfirdn2d(x, f.float(), padding=[2, 1, 2, 1]), expected, torch.float64)
    for dtype in (torch.bfloat16, torch.float16):
        low = ops.upfirdn2d(x.to(dtype), f.to(dtype), padding=[2, 1, 2, 1])
        close(low, truth(x.to(dtype), f.to(dtype), padding=(2, 1, 2, 1)), dtype)
