"""modulate_act's GPU kernels, executed without a GPU."""

import pytest
import test_modulate_act
import torch
from gpu import nvrtc
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels.ops import modulate_act
from gankernels.ops.bias_act import ACTIVATIONS

needs_nvrtc = pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing()))
BACKENDS = ["triton", pytest.param("cuda", marks=needs_nvrtc)]


class TestModulateActOnGpu(OnGpu, test_modulate_act.TestModulateAct):
    gpu_backends = ("triton", "cuda")


def derivatives(x, scale, bias, noise, g, v, act, order):
    """y, the first derivatives, and those of <v, gradient of x> + the sum of the others by every tensor."""
    leaves = [t.detach().requires_grad_() for t in (x, scale, bias, noise, g)]
    y = modulate_act(*leaves[:3], noise=leaves[3], act=act, clamp=1.5)
    first = torch.autograd.grad(y, leaves[:4], leaves[4], create_graph=order > 1)
    if order == 1:
        return [y, *first]
    cotangents = [v, *(torch.ones_like(t) for t in first[1:])]
    second = torch.autograd.grad(first, leaves, cotangents, allow_unused=True)
    return [y, *first, *(torch.zeros_like(t) if t2 is None else t2 for t, t2 in zip(leaves, second, strict=True))]


def check(backend, shape, dtype, layout, offset, noise_shape, act="swish", order=2):
    torch.manual_seed(0)
    n, c, h, w = shape

    def make():
        flat = torch.randn(offset + torch.Size(shape).numel()).to(dtype)[offset:]
        return flat.view(shape) if layout == "NCHW" else flat.view(n, h, w, c).permute(0, 3, 1, 2)

    tensors = [make(), torch.rand(n, c) + 0.5, torch.randn(c), torch.randn(noise_shape), make(), make()]
    tensors[1:4] = (t.to(torch.promote_types(dtype, torch.float32)) for t in tensors[1:4])
    with gankernels.backend("reference"):
        theirs = derivatives(*tensors, act, order)
        truth = derivatives(*(t.double() for t in tensors), act, order)
    with emulated(backend, 80) as log:
        ours = derivatives(*tensors, act, order)
    for i, (a, r, t) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert_as_true_as_reference(a, r, t, f"result {i}")
    return log


PATHS = [  # shape, dtype, layout, elements before the first, shape of noise, CUDA's elements of a thread by order
    ((2, 16, 3, 5), torch.float32, "NHWC", 0, (2, 1, 3, 5), "444"),
    ((3, 40, 41, 8), torch.bfloat16, "NHWC", 0, (41, 8), "884"),  # several blocks of rows
    ((2, 16, 3, 5), torch.float32, "NHWC", 1, (3, 5), "111"),
    ((2, 3, 24, 32), torch.float16, "NCHW", 0, (2, 1, 24, 32), "884"),  # several blocks of columns
    ((3, 5, 5, 7), torch.float16, "NCHW", 0, (), "111"),
    ((2, 5, 8, 8), torch.bfloat16, "NCHW", 3, (8, 8), "111"),
    ((3, 24, 1, 1), torch.float64, "NCHW", 0, (3, 1, 1, 1), "222"),
]


@needs_nvrtc
@pytest.mark.parametrize(("shape", "dtype", "layout", "offset", "noise", "packs"), PATHS, ids=str)
def test_cuda_paths(shape, dtype, layout, offset, noise, packs):
    log = check("cuda", shape, dtype, layout, offset, noise)
    launched = {launch.name.partition(", ")[2] for launch in log.launches}
    assert launched == {f"{order}, {pack}>" for order, pack in enumerate(packs)}


@pytest.mark.parametrize(("shape", "dtype", "layout", "offset", "noise"), [p[:5] for p in PATHS[1::2]], ids=str)
def test_triton_paths(shape, dtype, layout, offset, noise):
    check("triton", shape, dtype, layout, offset, noise)


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_that_walk(backend, monkeypatch):
    """More than one round of a block along the outer axis."""
    if backend == "triton":
        from gankernels.triton import modulate_act as kernels

        monkeypatch.setattr(kernels, "_PROGRAMS", 2)
        check(backend, (2, 20, 9, 16), torch.float32, "NHWC", 0, (9, 16))
        check(backend, (2, 20, 9, 16), torch.float32, "NCHW", 0, (9, 16))
    else:
        check(backend, (2, 16, 96, 96), torch.float32, "NCHW", 1, (96, 96), order=1)


@needs_nvrtc
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation_in_cuda(act):
    check("cuda", (2, 4, 4, 4), torch.float64, "NHWC", 0, (4, 4), act)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_launch_each(backend):
    x, scale, bias, noise = (torch.randn(s, requires_grad=True) for s in ((2, 8, 4, 4), (2, 8), (8,), (4, 4)))
    with emulated(backend, 80) as log:
        y = modulate_act(x, scale, bias, noise=noise, act="swish")
        assert len(log.launches) == 1
        first = torch.autograd.grad(y.sum(), [x, scale, bias, noise], create_graph=True)
        assert len(log.launches) == 2
        torch.autograd.grad(sum(g.square().sum() for g in first), [x, scale, bias, noise])
        assert len(log.launches) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_power_of_a_weight(backend):
    with emulated(backend, 80):
        test_modulate_act.check_power((5, 4, 3, 3), torch.float64, *_power(backend))
        test_modulate_act.check_power((5, 4, 1, 1), torch.bfloat16, *_power(backend))


def _power(backend):
    return (getattr(torch.ops, "gankernels" if backend == "triton" else "gankernels_native").weight_power,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_place(backend):
    x, scale = torch.randn(2, 3, 4, 5), torch.rand(2, 3)
    with gankernels.backend("reference"):
        expected = modulate_act(x, scale, act="lrelu")
    numbers = (scale, None, None, "lrelu", 0.2, 2**0.5, -1.0)
    with emulated(backend, 80):
        op = getattr(torch.ops, "gankernels" if backend == "triton" else "gankernels_native").modulate_act_
        op(x, *numbers)
        with pytest.raises((RuntimeError, ValueError), match="modulate_act_: x has strides"):
            op(x[..., ::2], *numbers)
    torch.testing.assert_close(x, expected)
