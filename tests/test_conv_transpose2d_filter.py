"""conv_transpose2d_filter, the CPU's one pass for the two operators that conv2d_resample is upwards."""

import pytest
import torch

import gankernels
from gankernels.ops import modulated_conv2d, setup_filter

pytestmark = pytest.mark.skipif(gankernels.why_not("cpu", "cpu") is not None, reason="the extension is not built")

SHAPES = {
    "strips": ((1, 3, 20, 33), (3, 4, 3, 3), (2, 2)),
    "few channels, many samples": ((5, 5, 7, 16), (5, 13, 2, 4), (2, 2)),
    "one row": ((2, 8, 1, 30), (8, 6, 3, 3), (2, 2)),
    "tiles": ((1, 40, 40, 64), (40, 7, 3, 3), (2, 2)),
    "stride of one axis": ((2, 4, 9, 24), (4, 7, 1, 3), (1, 2)),
    "stride 3": ((1, 4, 9, 40), (4, 7, 3, 3), (3, 2)),
}
FILTERS = {
    "4 x 4": (setup_filter([1, 3, 3, 1]), [1, 1, 1, 1]),
    "12": (setup_filter(list(range(1, 13))), [6, 5, 3, 8]),
    "2 x 3": (torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0, 0.5])), [0, 4, -1, 2]),
    "not a product": (torch.tensor([[1.0, 2.0], [3.0, -4.0]]), [0, 1, 1, 0]),
    "cropped": (setup_filter([1, 2, 1]), [-1, 1, 1, 1]),
    "far outside": (setup_filter([1, 2, 1]), [1, 1, 9, 5]),
}


def tensors(x, weight, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in (x, weight)]


def one_pass(x, w, f, stride, padding, scale=None, flip=False):
    size = [(x.shape[2 + d] - 1) * stride[d] + w.shape[2 + d] for d in (0, 1)]
    fy = f if f.ndim == 1 else None
    return torch.ops.gankernels_native.conv_transpose2d_filter(
        x, w, f, fy, scale, stride, [0, 0], size, padding, flip, 4.0
    )


def two_passes(x, w, f, stride, padding, scale=None, flip=False):
    native = torch.ops.gankernels_native
    size = [(x.shape[2 + d] - 1) * stride[d] + w.shape[2 + d] for d in (0, 1)]
    y = native.conv_transpose2d(x, w, None, stride, [0, 0], [1, 1], 1, size)
    y = native.upfirdn2d(y, f, f if f.ndim == 1 else None, [1, 1], [1, 1], padding, flip, 4.0)
    return y if scale is None else (y * scale[:, :, None, None]).to(y.dtype)


@pytest.mark.parametrize("taps", FILTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_numbers_as_in_two(shape, taps):
    *sizes, stride = SHAPES[shape]
    f, padding = FILTERS[taps]
    x, w = tensors(*sizes)
    scale = torch.rand(x.shape[0], w.shape[1])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(one_pass(x, w, f, stride, padding), two_passes(x, w, f, stride, padding))
            scaled = one_pass(x, w, f, stride, padding, scale, flip=True)
            assert torch.equal(scaled, two_passes(x, w, f, stride, padding, scale, flip=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_and_layouts(dtype):
    *sizes, stride = SHAPES["strips"]
    f, padding = FILTERS["4 x 4"]
    x, w = tensors(*sizes, dtype)
    scale = torch.rand(x.shape[0], w.shape[1])
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        ours, theirs = (run(x, w, f, stride, padding, scale) for run in (one_pass, two_passes))
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=layout)
    strided = torch.randn(1, 20, 3, 66)[..., ::2].transpose(1, 2)
    w = w.float()
    assert torch.equal(one_pass(strided, w, f, stride, padding), two_passes(strided, w, f, stride, padding))
    assert one_pass(strided[:0], w, f, stride, padding).shape == (
        0,
        *two_passes(strided, w, f, stride, padding).shape[1:],
    )


@pytest.mark.parametrize("learnt", ["xw", "x", "w", "xwf", "xws", "s"])
@pytest.mark.parametrize("taps", ["12", "2 x 3"])
def test_derivatives(learnt, taps):
    *sizes, stride = SHAPES["one row"]
    f, padding = FILTERS[taps]
    x, w = tensors(*sizes, torch.float64)
    scale = torch.rand(x.shape[0], w.shape[1], dtype=torch.float64) if "s" in learnt else None
    leaves = {"x": x, "w": w, "f": f.double(), "s": scale}
    wanted = [leaves[name].requires_grad_() for name in learnt]

    def derivatives(run):
        y = run(x, w, leaves["f"], stride, padding, scale)
        g = tensors(y.shape, (1,), torch.float64)[0].requires_grad_()
        first = torch.autograd.grad(y, wanted, g, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), [*wanted, g], allow_unused=True)
        return *first, *(t for t in second if t is not None)

    ours, theirs = derivatives(one_pass), derivatives(two_passes)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scaled", [False, True])
def test_dispatcher(scaled):
    *sizes, stride = SHAPES["strips"]
    f, padding = FILTERS["4 x 4"]
    x, w = tensors(*sizes)
    scale = torch.rand(x.shape[0], w.shape[1]) if scaled else None
    size = [(x.shape[2 + d] - 1) * stride[d] + w.shape[2 + d] for d in (0, 1)]
    op = torch.ops.gankernels_native.conv_transpose2d_filter.default
    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    torch.library.opcheck(op, (*leaves, f, None, scale, stride, [0, 0], size, padding, False, 4.0))
    batch = torch.stack([x, -2 * x])
    ours = torch.vmap(lambda x: one_pass(x, w, f, stride, padding, scale))(batch)
    torch.testing.assert_close(ours, torch.stack([one_pass(x, w, f, stride, padding, scale) for x in batch]))
    weights = torch.stack([w, w + 1])
    ours = torch.vmap(lambda w: one_pass(x, w, f, stride, padding, scale))(weights)
    torch.testing.assert_close(ours, torch.stack([one_pass(x, w, f, stride, padding, scale) for w in weights]))


def test_bad_input():
    f = torch.ones(2, 2)
    x, w = torch.ones(1, 3, 4, 16), torch.ones(3, 4, 3, 3)
    with pytest.raises(ValueError, match="scale has shape"):
        one_pass(x, w, f, [2, 2], [0, 0, 0, 0], torch.ones(1, 3))
    with pytest.raises(ValueError, match="x has 3 channels"):
        one_pass(x, w[:2], f, [2, 2], [0, 0, 0, 0])


def test_a_modulated_convolution_is_the_same_with_and_without_a_graph():
    torch.manual_seed(0)
    x, w, s = torch.randn(2, 8, 16, 16), torch.randn(8, 8, 3, 3), torch.randn(2, 8)
    with gankernels.backend("cpu"):
        kwargs = dict(up=2, padding=1, resample_filter=setup_filter([1, 3, 3, 1]), flip_weight=False)
        bare = modulated_conv2d(x, w, s, **kwargs)
        traced = modulated_conv2d(x.requires_grad_(), w, s.requires_grad_(), **kwargs)
    assert torch.equal(bare, traced)
