import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from op_tests import Calls, OpTests, Sample

import gankernels
from gankernels.ops import conv2d_resample, upfirdn2d

NATIVE = "gankernels_native::"


def sample(x, w, f=None, **kwargs):
    fan_in = w[1] * w[2] * w[3]
    tensors = {"x": torch.randn(x, dtype=torch.float64), "w": torch.randn(w, dtype=torch.float64) / fan_in**0.5}
    if f is not None:
        tensors["f"] = torch.rand(f, dtype=torch.float64) / 4
    return Sample(tensors, kwargs)


def definition(x, w, f, up, down, padding, groups, flip_weight, flip_filter):
    """Zeros inserted, filtered, convolved, filtered, decimated: every zero multiplied."""
    pads = list(padding)
    for axis in (0, 1):
        taps = 1 if f is None else (f.shape[-1], f.shape[0])[axis]
        if up > 1:
            pads[2 * axis] += (taps + up - 1) // 2
            pads[2 * axis + 1] += (taps - up) // 2
        if down > 1:
            pads[2 * axis] += (taps - down + 1) // 2
            pads[2 * axis + 1] += (taps - down) // 2
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    x = F.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d(x, f if down > 1 else None, down=down, flip_filter=flip_filter)


class TestConv2dResample(OpTests):
    name = "conv2d_resample"
    thread_tolerance = 1e-4  # oneDNN cuts its sums by the number of threads
    convolution = NATIVE + "conv_transpose2d"

    def samples(self):
        yield sample((2, 4, 4, 5), (6, 4, 3, 3), (4, 4), up=2, padding=1)
        yield sample((2, 4, 7, 6), (4, 2, 3, 3), (4,), down=2, padding=1, groups=2, flip_weight=False)
        yield sample((1, 2, 3, 4), (3, 2, 1, 1), (4, 4), up=2, flip_filter=True)
        yield sample((1, 2, 5, 4), (3, 2, 1, 1), (2, 3), down=2)
        yield sample((1, 2, 5, 4), (2, 2, 3, 2), up=[2, 3], padding=[1, 2, 0, -1])
        yield sample((1, 2, 5, 6), (2, 2, 2, 3), (3, 3), up=2, down=[3, 2], padding=[1, 2, 0, 1])
        yield sample((1, 2, 5, 6), (2, 2, 3, 3), down=2, padding=1)
        yield sample((1, 4, 3, 3), (4, 2, 3, 3), (3, 3), up=2, groups=2, flip_weight=False)
        yield sample((2, 2, 4, 3), (3, 2, 3, 3), padding=1, flip_weight=False)
        yield sample((0, 2, 4, 4), (3, 2, 3, 3), (4, 4), up=2, padding=1)

    def bad(self):
        x, w, f = torch.randn(2, 4, 6, 6), torch.randn(6, 4, 3, 3), torch.randn(4, 4)
        yield {"x": x.int(), "w": w}, "x has dtype torch.int32"
        yield {"x": x, "w": [1.0]}, "w is list"
        yield {"x": x, "w": w.double()}, "w has dtype torch.float64"
        yield {"x": x, "w": w.to("meta")}, "w is on meta"
        yield {"x": x[0], "w": w}, "x has shape"
        yield {"x": x, "w": w[0]}, "w has shape"
        yield {"x": x[:, :0], "w": w[:, :0]}, "x has shape .* expected no empty"
        yield {"x": x, "w": w[:0]}, "w has shape .* expected no empty"
        yield {"x": x[:, :3], "w": w}, "x has 3 channels, expected 4"
        yield {"x": x, "w": w, "f": f[None]}, "f has shape"
        yield {"x": x, "w": w, "f": f.double(), "up": 2}, "f has dtype torch.float64"
        yield {"x": x, "w": w, "up": 0}, "up is 0"
        yield {"x": x, "w": w, "down": [1, 2, 3]}, "down is"
        yield {"x": x, "w": w, "up": 1.5}, "up is"
        yield {"x": x, "w": w, "padding": [1, 2, 3]}, "padding is"
        yield {"x": x, "w": w, "padding": -2}, "the result would be empty"
        yield {"x": x[..., :1], "w": w, "f": f, "up": 2, "padding": -2}, "the result would be empty"
        yield {"x": x, "w": w, "groups": 4}, "groups is 4, expected a divisor"
        yield {"x": x, "w": w, "groups": 2}, "x has 4 channels, expected 8"
        yield {"x": x, "w": w, "groups": 0}, "groups is 0"

    def check_pruned(self, calls: Calls, wanted: str):
        kinds = sorted(name.split(".")[0][len(NATIVE) :] for name, _ in calls.seen if name.startswith(NATIVE))
        expected = {
            "x": ["conv2d", "upfirdn2d"],
            "w": ["conv2d_weight_grad", "transpose_kernels", "upfirdn2d"],
            "f": ["upfirdn2d_filter_grad"],
        }
        assert kinds == expected[wanted], f"for {wanted} ran {kinds}"

    def test_opcheck(self, backend):
        pytest.skip("it has no operator of its own in the dispatcher; those it consists of are checked by their tests")


@st.composite
def geometries(draw):
    integers = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    groups = integers(1, 2)
    f = draw(st.sampled_from([None, (4,), (4, 4), (1, 2), (3, 5)]))
    return {
        "x": (1, 2 * groups, integers(1, 8), integers(1, 8)),
        "w": (3 * groups, 2, *draw(st.sampled_from([(1, 1), (3, 3), (2, 4), (1, 3)]))),
        "f": f,
        "up": integers(1, 3),
        "down": integers(1, 3),
        "padding": [integers(-2, 3) for _ in range(4)],
        "groups": groups,
        "flip_weight": draw(st.booleans()),
        "flip_filter": draw(st.booleans()),
    }


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(geometries())
def test_any_geometry_equals_the_definition(backend, g):
    torch.manual_seed(0)
    s = sample(g.pop("x"), g.pop("w"), g.pop("f"))
    s.tensors.setdefault("f", None)
    try:
        expected = definition(**s.tensors, **g)
    except (ValueError, RuntimeError):
        with pytest.raises(ValueError, match="conv2d_resample: the result would be empty"):
            conv2d_resample(**s.tensors, **g)
        return
    with gankernels.backend(backend):
        torch.testing.assert_close(conv2d_resample(**s.tensors, **g), expected)


def test_no_inserted_zero_is_multiplied():
    x, w, f = torch.randn(1, 4, 5, 5), torch.randn(6, 4, 3, 3), torch.randn(4, 4)
    for kwargs, kind, size in (
        ({"up": 2, "padding": 1}, "conv_transpose2d", (5, 5)),
        ({"down": 2, "padding": 1}, "conv2d", (6, 6)),
    ):
        with Calls() as calls, gankernels.backend("cpu"):
            conv2d_resample(x, w, f, **kwargs)
        ran = [args for name, args in calls.seen if name.startswith(NATIVE + kind)]
        assert [tuple(args["x"].shape[2:]) for args in ran] == [size]


@pytest.mark.skipif(gankernels.why_not("cpu", "cpu") is not None, reason="the extension is not built")
@pytest.mark.parametrize("shape", [(40, 33, 3, 3), (2, 3, 1, 2), (0, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kernels_are_transposed(shape, dtype):
    op = torch.ops.gankernels_native.transpose_kernels
    w = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
    y = op(w)
    assert y.is_contiguous()
    assert torch.equal(y, w.transpose(0, 1))
    g = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, w, g)[0], g.transpose(0, 1))
    batch = torch.randn(*shape[:2], 3, *shape[2:]).to(dtype)
    assert torch.equal(torch.vmap(op, in_dims=2)(batch), batch.movedim(2, 0).transpose(1, 2))
    if dtype == torch.float64 and w.numel():
        torch.library.opcheck(op.default, (w,))
