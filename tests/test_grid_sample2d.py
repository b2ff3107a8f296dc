import pytest
import torch
import torch.nn.functional as F
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference

import gankernels
from gankernels.ops import affine_grid_sample2d, grid_sample2d

MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection")


def image(*shape, last=False):
    x = torch.randn(shape, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def unsafe(grid, size, align):
    """Which points lie so near a pixel's centre or edge, where derivatives jump, that rounding may move them across."""
    result = torch.zeros(grid.shape[:-1], dtype=torch.bool)
    for axis, length in enumerate((size[1], size[0])):
        at = grid[..., axis] * (length - 1 if align else length) / 2 + (length - 1) / 2
        result |= (2 * at - (2 * at).round()).abs() < 0.06
    return result


def safe_grid(n, size, out, align=False, wide=1.6):
    """Random points that bfloat16 holds exactly."""
    grid = torch.zeros(n, *out, 2, dtype=torch.float64)
    bad = torch.ones(n, *out, dtype=torch.bool)
    while bad.any():
        grid[bad] = ((torch.rand(grid.shape, dtype=torch.float64) * 2 - 1) * wide).bfloat16().double()[bad]
        bad = unsafe(grid, size, align)
    return grid


def safe_theta(n, size, out, align=False):
    """Random affine maps of the same kind; bfloat16 holds them."""
    theta = torch.zeros(n, 2, 3, dtype=torch.float64)
    bad = torch.ones(n, dtype=torch.bool)
    while bad.any():
        theta[bad] = torch.randn(n, 2, 3).bfloat16().double()[bad]
        bad = unsafe(F.affine_grid(theta, [n, 1, *out], align), size, align).flatten(1).any(1)
    return theta


def sample(shape, out, last=False, **kwargs):
    align = kwargs.get("align_corners", False)
    return Sample({"x": image(*shape, last=last), "grid": safe_grid(shape[0], shape[2:], out, align)}, kwargs)


class Sampling(OpTests):
    layout_of = ("x",)

    def check_pruned(self, calls: Calls, wanted: str):
        ran = {name.split("::")[1].split(".")[0] for name, _ in calls.seen if name.startswith("gankernels")}
        assert ran == ({"grid_sample2d_adjoint"} if wanted == "x" else {"grid_sample2d_products"})


class TestGridSample2d(Sampling):
    name = "grid_sample2d"
    overloads = ("grid_sample2d", "grid_sample2d_adjoint", "grid_sample2d_products")
    layout_of = ()

    def samples(self):
        yield sample((2, 3, 5, 6), (4, 3))
        yield sample((2, 5, 4, 3), (3, 4), last=True, align_corners=True)
        yield sample((1, 2, 5, 4), (3, 3), padding_mode="border")
        yield sample((1, 3, 4, 4), (3, 2), last=True, padding_mode="reflection")
        yield sample((1, 2, 4, 5), (2, 3), padding_mode="reflection", align_corners=True)
        yield sample((2, 2, 4, 4), (2, 3), mode="nearest")
        yield sample((1, 1, 1, 1), (2, 2))
        yield sample((0, 3, 4, 4), (2, 2))
        yield sample((2, 3, 4, 4), (0, 2))

    def bad(self):
        x, grid = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 3, 2)
        good = {"x": x, "grid": grid}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": x[0]}, "x has shape"
        yield good | {"x": x[:, :, :0]}, "expected H and W of at least 1"
        yield good | {"grid": None}, "grid is NoneType"
        yield good | {"grid": grid.double()}, "grid has dtype torch.float64"
        yield good | {"x": x.double()}, "grid has dtype torch.float32, expected torch.float64"
        yield good | {"x": x.half(), "grid": grid.bfloat16()}, "grid has dtype torch.bfloat16"
        yield good | {"grid": grid.to("meta")}, "grid is on meta"
        yield good | {"grid": grid[0]}, r"grid has shape \[3, 3, 2\], expected 4 dimensions"
        yield good | {"grid": grid[:1]}, r"grid has shape \[1, 3, 3, 2\], expected \[2, OH, OW, 2\]"
        yield good | {"grid": grid[..., :1]}, "grid has shape"
        yield good | {"mode": "bicubic"}, "mode is 'bicubic', expected one of bilinear, nearest"
        yield good | {"padding_mode": "wrap"}, "padding_mode is 'wrap', expected one of zeros, border, reflection"
        huge = torch.empty(1, 1, 1, 1).expand(1, 1, 2**16, 2**15)
        yield {"x": huge, "grid": grid[:1]}, "expected fewer than 2\\^31 pixels"


class TestAffineGridSample2d(Sampling):
    name = "affine_grid_sample2d"

    def samples(self):
        for shape, out, kwargs in [
            ((2, 3, 5, 6), (4, 3), {}),
            ((2, 4, 4, 4), (3, 4), {"align_corners": True}),
            ((2, 2, 4, 4), (2, 2), {"padding_mode": "border"}),
        ]:
            theta = safe_theta(shape[0], shape[2:], out, "align_corners" in kwargs)
            yield Sample({"x": image(*shape), "theta": theta}, {"size": out} | kwargs)
        yield Sample({"x": image(0, 2, 4, 4), "theta": image(0, 2, 3)}, {"size": (2, 2)})

    def bad(self):
        good = {"x": torch.randn(2, 3, 4, 5), "theta": torch.randn(2, 2, 3), "size": (4, 4)}
        yield good | {"x": torch.randn(2, 3)}, "x has shape"
        yield good | {"theta": torch.randn(2, 3, 3)}, r"theta has shape \[2, 3, 3\], expected \[2, 2, 3\]"
        yield good | {"theta": torch.randn(1, 2, 3)}, "theta has shape"
        yield good | {"theta": torch.randn(2, 2, 3).half()}, "theta has dtype"
        for size in (4, (4,), (4, -1), (4, 2.0), "44"):
            yield good | {"size": size}, "size is"
        yield good | {"mode": "cubic"}, "mode is 'cubic'"
        yield good | {"padding_mode": 0}, "padding_mode is 0"


def equals_pytorch(x, grid, options, theta_size=None):
    gy = torch.randn(*x.shape[:2], *(theta_size or grid.shape[1:3]), dtype=x.dtype)

    def run(f):
        a, b = x.detach().requires_grad_(), grid.detach().requires_grad_()
        y = f(a, b)
        return [y, *torch.autograd.grad(y, [a, b], gy)]

    if theta_size:
        ours = run(lambda a, b: affine_grid_sample2d(a, b, theta_size, **options))
        align = options["align_corners"]
        theirs = run(lambda a, b: F.grid_sample(a, F.affine_grid(b, [*a.shape[:2], *theta_size], align), **options))
    else:
        ours = run(lambda a, b: grid_sample2d(a, b, **options))
        theirs = run(lambda a, b: F.grid_sample(a, b, **options))
    torch.testing.assert_close(ours, theirs)


def cpu_backends(test):
    return pytest.mark.parametrize("name", ["reference", "cpu"])(test)


@cpu_backends
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_pytorch(name, mode, padding, align):
    options = {"mode": mode, "padding_mode": padding, "align_corners": align}
    with gankernels.backend(name):
        for last in (False, True):
            x = image(2, 3, 5, 6, last=last)
            equals_pytorch(x, torch.randn(2, 7, 19, 2, dtype=torch.float64) * 1.5, options)
            equals_pytorch(x, torch.randn(2, 2, 3, dtype=torch.float64), options, (7, 19))
        equals_pytorch(image(2, 2, 1, 1), torch.randn(2, 3, 3, 2, dtype=torch.float64), options)


@cpu_backends
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_pixels_that_are_not_met_do_not_count(name, mode, padding):
    """Infinities elsewhere in the image, and points that are no numbers."""
    far = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, 0.1])
    grid = torch.stack(torch.meshgrid(far, far, indexing="ij"), -1)[None]
    x = torch.randn(1, 2, 4, 4)
    with gankernels.backend(name):
        y = grid_sample2d(x, grid, mode=mode, padding_mode=padding)
        expected = F.grid_sample(x, grid[:, -1:, -1:], mode, padding, False)
        torch.testing.assert_close(y[:, :, -1:, -1:], expected)
        assert y.isfinite().all()
        assert not y[:, :, 2].any(), "a NaN is outside"
        if padding == "zeros":
            assert not y[:, :, :-1].any()
        spoilt = x.clone()
        spoilt[:, :, 0, 0] = float("inf")
        met = torch.full((1, 1, 1, 2), 0.3)
        assert grid_sample2d(spoilt, met, mode=mode, padding_mode=padding).isfinite().all()
        if padding == "zeros":
            assert not grid_sample2d(spoilt, met * 9, mode=mode, padding_mode=padding).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@cpu_backends
def test_a_float32_grid_for_16_bits(name, dtype):
    x, grid = image(2, 3, 20, 20).to(dtype), safe_grid(2, (20, 20), (30, 40)).float() + 0.001
    gy = torch.randn(2, 3, 30, 40).to(dtype)

    def run(x, grid, gy):
        x, grid = x.detach().requires_grad_(), grid.detach().requires_grad_()
        y = grid_sample2d(x, grid)
        return [y, *torch.autograd.grad(y, [x, grid], gy)]

    with gankernels.backend(name):
        ours = run(x, grid, gy)
    assert [t.dtype for t in ours] == [dtype, dtype, torch.float32]
    with gankernels.backend("reference"):
        theirs, truth = run(x, grid, gy), run(x.double(), grid.double(), gy.double())
    for a, r, t in zip(ours, theirs, truth, strict=True):
        assert_as_true_as_reference(a, r, t)


def test_autocast_widens_the_grid():
    x, grid = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 3, 2).bfloat16()
    with pytest.raises(ValueError, match="grid has dtype"):
        grid_sample2d(x, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = grid_sample2d(x, grid)
    assert y.dtype == torch.float32
    assert y.equal(grid_sample2d(x, grid.float()))


def every_order(f, tensors, orders):
    """Values of derivatives: each is of a weighted sum of all before."""
    results, last = [], f(*tensors)
    for order in range(orders):
        gs = torch.autograd.grad(
            (last * torch.linspace(-1, 1, last.numel(), dtype=last.dtype).view_as(last)).sum(),
            tensors, create_graph=order + 1 < orders, allow_unused=True,
        )  # fmt: skip
        gs = [torch.zeros_like(t) if g is None else g for g, t in zip(gs, tensors, strict=True)]
        results += gs
        last = torch.cat([g.flatten() for g in gs])
    return results


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_of_any_order(mode):
    """The fourth, in the image and the grid at once: the compiled operators close."""
    tensors = [t.requires_grad_() for t in sample((2, 2, 4, 5), (3, 3)).tensors.values()]
    results = {}
    for name in ("reference", "cpu"):
        with gankernels.backend(name):
            results[name] = every_order(lambda x, grid: grid_sample2d(x**3, grid**2, mode=mode), tensors, 4)
    torch.testing.assert_close(results["cpu"], results["reference"])


@cpu_backends
def test_affine_is_the_grid_of_theta(name):
    x = image(2, 3, 6, 5).requires_grad_()
    theta = torch.randn(2, 2, 3, dtype=torch.float64)
    with gankernels.backend(name):
        for align in (False, True):
            grid = F.affine_grid(theta, [2, 3, 4, 7], align)
            expected = grid_sample2d(x, grid, align_corners=align)
            ours = affine_grid_sample2d(x, theta, (4, 7), align_corners=align)
            torch.testing.assert_close(ours, expected)
            gy = torch.randn_like(ours)
            a, b = (torch.autograd.grad(y, x, gy, create_graph=True)[0] for y in (ours, expected))
            torch.testing.assert_close(a, b)


def test_affine_makes_no_grid_unless_theta_learns():
    x, theta = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 3)
    seen = []
    for learns in (False, True):
        with gankernels.backend("cpu"), Calls() as calls:
            affine_grid_sample2d(x, theta.requires_grad_(learns), (4, 4))
        seen.append([name for name, _ in calls.seen if "alias" not in name and "detach" not in name])
    assert seen[0] == ["gankernels_native::grid_sample2d"]
    assert len(seen[1]) > 1


def test_channels_and_positions_beyond_a_block():
    x, grid = image(1, 300, 7, 6, last=True), safe_grid(1, (7, 6), (20, 30))
    gy = image(1, 300, 20, 30, last=True)

    def run():
        a, b = x.detach().requires_grad_(), grid.detach().requires_grad_()
        y = grid_sample2d(a, b)
        return [y, *torch.autograd.grad(y, [a, b], gy)]

    with gankernels.backend("cpu"):
        ours = run()
    with gankernels.backend("reference"):
        torch.testing.assert_close(ours, run())
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert ours[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(gankernels._backend.native_error is not None, reason="gankernels._C is not built")
def test_direct_calls_are_checked():
    ops = torch.ops.gankernels_native
    x, grid, gy = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 3, 2), torch.randn(2, 3, 3, 3)
    for args, message in [
        ((x[0], grid, None, [3, 3], 0, 0, False), "x has shape"),
        ((x, grid, None, [3], 0, 0, False), "expected"),
        ((x, grid, None, [3, 4], 0, 0, False), "grid has shape"),
        ((x, grid, None, [3, 3], 2, 0, False), "mode is 2"),
        ((x, grid, None, [3, 3], 0, 3, False), "padding 3"),
        ((x, grid.double(), None, [3, 3], 0, 0, False), "grid is Double"),
        ((x, grid, grid[..., :0], [3, 3], 0, 0, False), "along is"),
        ((x, grid, grid[:, :2], [3, 3], 0, 0, False), "along has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            ops.grid_sample2d(*args)
    with pytest.raises(ValueError, match="expected x not to be empty"):
        ops.grid_sample2d_adjoint(gy, grid, None, [0, 4], 0, 0, False)
    for args, message in [((gy[:1], x, grid), "gy has shape"), ((gy.double(), x, grid), "gy is Double")]:
        with pytest.raises(ValueError, match=message):
            ops.grid_sample2d_products(*args, False, 0, 0, False)


def test_the_gradient_of_a_theta_that_needed_none_is_refused():
    x, theta = torch.randn(1, 1, 4, 4), torch.randn(1, 2, 3, requires_grad=True)
    y = torch.ops.gankernels_native.grid_sample2d(x, theta, None, [2, 2], 0, 0, False)
    with pytest.raises(RuntimeError, match="the gradient of an affine grid is asked for"):
        y.sum().backward()
