"""batch_norm_act's GPU kernels, executed without a GPU."""

import pytest
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference
from test_batch_norm_act import TestBatchNormAct as Battery
from test_batch_norm_act import sample

import gankernels
from gankernels.ops import batch_norm_act
from gankernels.ops.bias_act import ACTIVATIONS

needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
BACKENDS = ["triton", pytest.param("cuda", marks=needs_nvrtc)]


class TestBatchNormActOnGpu(OnGpu, Battery):
    gpu_backends = ("triton", "cuda")

    def samples(self):
        """One call of a kind: each is several kernels to compile and to execute one instruction at a time."""
        yield sample((3, 3, 4, 5), act="lrelu")
        yield sample((2, 8, 3, 2), act="swish", training=False, gain=1.7, last=True)
        yield sample((0, 3, 4, 4), act="tanh")


def derivatives(x, w, b, gy, v, act, training, mean, var):
    """y, the first derivatives, and those of <(v, 1, 1), first derivatives> by every tensor."""
    leaves = [t.detach().requires_grad_() for t in (x, w, b, gy)]
    running = (None, None) if training else (mean.to(w), var.to(w))
    y = batch_norm_act(*leaves[:3], *running, training=training, act=act, gain=1.5)
    first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
    second = torch.autograd.grad(first, leaves, [v, *(torch.ones_like(g) for g in first[1:])], allow_unused=True)
    second = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, second, strict=True)]
    return dict(zip(["y", "x", "weight", "bias", "xx", "weight2", "bias2", "gy"], [y, *first, *second], strict=True))


def check(backend, cc, shape, dtype, layout, offset, act, training):
    """Holds `derivatives` on an emulated GPU against the reference; returns the log of launches."""
    torch.manual_seed(0)

    def make():
        flat = torch.randn(offset + torch.Size(shape).numel(), dtype=dtype)[offset:]
        if layout == "NCHW":
            return flat.view(shape)
        n, c, h, w = shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)

    tensors = [make(), *(torch.rand(shape[1], dtype=dtype) + 0.5 for _ in range(2)), make(), make()]
    rest = (act, training, *(torch.rand(shape[1], dtype=dtype) + 0.5 for _ in range(2)))
    with gankernels.backend("reference"):
        theirs = derivatives(*tensors, *rest)
        truth = derivatives(*(t.double() for t in tensors), *rest)
    with emulated(backend, cc) as log:
        ours = derivatives(*tensors, *rest)
    for name in truth:
        assert_as_true_as_reference(ours[name], theirs[name], truth[name], name)
    return log


PATHS = [  # shape, dtype, layout, elements before the first, how packs lie: single, rows of a channel, channels
    ((2, 16, 3, 5), torch.float32, "NHWC", 0, 2),
    ((3, 40, 41, 8), torch.bfloat16, "NHWC", 0, 2),  # two strips of channels and two splits
    ((2, 16, 3, 5), torch.float32, "NHWC", 1, 0),
    ((3, 2, 96, 64), torch.bfloat16, "NCHW", 0, 1),  # several splits
    ((3, 5, 5, 7), torch.float16, "NCHW", 0, 0),
    ((2, 5, 8, 8), torch.float16, "NCHW", 3, 0),
    ((70, 40), torch.float64, "NCHW", 0, 2),
    ((70, 37), torch.float32, "NCHW", 0, 0),
]


@needs_nvrtc
@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "offset", "packs", "training"),
    [(*path, training) for training in (True, False) for path in PATHS[:: 1 if training else 3]],
    ids=lambda v: str(v),
)
def test_cuda_paths(shape, dtype, layout, offset, packs, training):
    log = check("cuda", 80, shape, dtype, layout, offset, "swish", training)
    layouts = {launch.name[-2] for launch in log.launches}
    assert layouts <= {str(packs), "0"}, layouts  # "0": the parameters' gradients alone
    assert str(packs) in layouts


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "training"),
    [
        ((3, 40, 41, 8), torch.bfloat16, "NHWC", True),
        ((3, 2, 96, 64), torch.bfloat16, "NCHW", True),
        ((5, 2, 1, 1), torch.float16, "NCHW", False),
    ],
    ids=lambda v: str(v),
)
def test_triton_paths(shape, dtype, layout, training):
    check("triton", 80, shape, dtype, layout, 0, "swish", training)


@needs_nvrtc
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_in_cuda(act):
    check("cuda", 80, (2, 4, 4, 4), torch.float32, "NHWC", 0, act, True)


def count(log):
    launches = len(log.launches)
    log.launches.clear()
    return launches


@pytest.mark.parametrize("backend", BACKENDS)
def test_launches(backend):
    """Two where sums over the batch come first, else one; the parameters' gradients are a second, small one."""
    x, w, b = (torch.randn(s, requires_grad=True) for s in ((4, 8, 8, 8), 8, 8))
    gy, mean, var = torch.randn(4, 8, 8, 8), torch.zeros(8), torch.ones(8)
    with emulated(backend, 80) as log:
        for training in (True, False):
            running = (mean.clone(), var.clone())
            y = batch_norm_act(x, w, b, *running, training=training, act="lrelu")
            assert count(log) == (2 if training else 1)
            (g,) = torch.autograd.grad(y, [x], gy, retain_graph=True, create_graph=True)
            assert count(log) == (2 if training else 1)
            torch.autograd.grad(y, [w, b], gy, retain_graph=True)
            assert count(log) == 2
            torch.autograd.grad(y, [x, w, b], gy, retain_graph=True)
            assert count(log) == 2
            torch.autograd.grad(g.square().sum(), [x, w])
            assert count(log) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def test_mean_far_above_the_deviation(backend, layout):
    x = torch.randn(16, 8, 33, 17) + 1e4
    x[0] -= 3  # the first sample is not typical of the rest
    x = x.contiguous(memory_format=layout)
    running = [torch.zeros(8), torch.ones(8)]
    with emulated(backend, 80):
        ours = batch_norm_act(x, None, None, *running, training=True, momentum=1.0)
    with gankernels.backend("reference"):
        truth = batch_norm_act(x.double(), None, None, None, None, training=True)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=2e-3)
    flat = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(running[0].double(), flat.mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(running[1].double(), flat.var(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False])
def test_float32_parameters_beside_16_bits(backend, training):
    x = torch.randn(4, 6, 4, 5).bfloat16()
    tensors = [x, torch.rand(6) + 0.5, torch.rand(6), torch.randn_like(x), torch.randn_like(x)]
    rest = ("lrelu", training, torch.rand(6), torch.rand(6) + 0.5)
    with gankernels.backend("reference"):
        theirs, truth = derivatives(*tensors, *rest), derivatives(*(t.double() for t in tensors), *rest)
    with emulated(backend, 80):
        ours = derivatives(*tensors, *rest)
    assert ours["weight"].dtype == ours["bias2"].dtype == torch.float32
    for name in truth:
        assert_as_true_as_reference(ours[name], theirs[name], truth[name], name)
