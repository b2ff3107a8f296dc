import pytest
import torch
from op_tests import Calls, OpTests, Sample, assert_as_true_as_reference, on_each_backend

import gankernels
from gankernels import _backend
from gankernels.nn import BatchNormAct2d
from gankernels.ops import batch_norm_act
from gankernels.ops.bias_act import ACTIVATIONS

CHANNELS_LAST = torch.channels_last


def sample(shape, training=True, affine=True, last=False, **kwargs):
    x = torch.randn(shape, dtype=torch.float64) * 1.3 + 0.2
    if last:
        x = x.to(memory_format=CHANNELS_LAST)
    c = shape[1]
    tensors, fixed = {"x": x}, {}
    if affine:
        tensors["weight"] = torch.linspace(0.6, -1.4, c, dtype=torch.float64)
        tensors["bias"] = torch.linspace(-0.5, 0.7, c, dtype=torch.float64)
    else:
        kwargs |= {"weight": None, "bias": None}
    if not training:
        fixed = {"running_mean": torch.rand(c, dtype=torch.float64), "running_var": torch.rand(c).double() + 0.5}
    else:
        kwargs |= {"running_mean": None, "running_var": None}
    return Sample(tensors, {"training": training, **kwargs}, fixed)


class TestBatchNormAct(OpTests):
    name = "batch_norm_act"
    overloads = ("batch_norm_act", "batch_norm_act_backward", "batch_norm_act_double_backward")
    layout_of = ("x",)

    def samples(self):
        yield sample((3, 3, 4, 5), act="lrelu")
        yield sample((3, 3, 4, 5), act="swish", training=False, gain=1.7)
        yield sample((3, 3, 4, 5), act="swish", last=True)
        yield sample((2, 4, 3, 3), act="relu", training=False, last=True)
        yield sample((0, 3, 4, 4), act="tanh")
        yield sample((0, 3, 4, 4), act="relu", training=False)
        yield sample((5, 2, 1, 1), act="sigmoid")
        yield sample((6, 4), act="elu", affine=False)
        yield sample((1, 2, 3, 7), act="linear", training=False, affine=False)
        yield sample((2, 3, 5), act="lrelu", alpha=-0.3, gain=-1.5)
        yield sample((2, 2, 2, 3, 2), act="softplus", eps=0.1)
        for act in ACTIVATIONS:
            yield sample((2, 2, 3, 3), act=act, gain=1.3)

    def bad(self):
        x, c, d = torch.randn(2, 3, 4, 4), torch.ones(3), torch.ones(4)
        good = {"x": x, "weight": c, "bias": c, "running_mean": c, "running_var": c, "training": True}
        yield good | {"x": x.int()}, "x has dtype torch.int32"
        yield good | {"x": [1.0]}, "x is list"
        yield good | {"x": torch.ones(3)}, r"x has shape \[3\], expected \[N, C, ...\]"
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield good | {name: d}, rf"{name} has shape \[4\], expected \[3\]"
            yield good | {name: c.double()}, f"{name} has dtype torch.float64, expected torch.float32"
            yield good | {name: c.to("meta")}, f"{name} is on meta"
        yield good | {"x": x.bfloat16(), "bias": c.bfloat16()}, "bias has dtype torch.bfloat16, expected torch.float32"
        yield good | {"weight": 1.0}, "weight is float"
        yield good | {"running_var": None}, "of running_mean and running_var one is None"
        yield good | {"running_mean": None, "running_var": None, "training": False}, "running_mean is None"
        yield good | {"running_mean": c.clone().requires_grad_()}, "running_mean requires grad"
        yield good | {"x": torch.ones(1, 3, 1, 1)}, "expected more than 1 value per channel when training"
        yield good | {"act": "gelu"}, "act is 'gelu'"
        yield good | {"eps": 0.0}, "eps is 0.0"
        yield good | {"momentum": float("nan")}, "momentum is nan"
        yield good | {"gain": float("inf")}, "gain is inf"

    def check_pruned(self, calls: Calls, wanted: str):
        backward = [args for name, args in calls.seen if "batch_norm_act_backward" in name]
        assert len(backward) == 1
        assert list(backward[0]["wanted"]) == [wanted == name for name in ("x", "weight", "bias")]

    def opcheck_args(self, overload, args):
        """What has no derivative: statistics, and every argument of the second derivative, whose own is refused."""
        if "double_backward" in overload:
            return tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)
        space, name = overload.split(".")[:2]
        names = [a.name for a in getattr(getattr(torch.ops, space), name).default._schema.arguments]
        fixed = ("mean", "invstd", "running_mean", "running_var")
        return tuple(a.detach() if n in fixed and a is not None else a for n, a in zip(names, args, strict=True))


backend = on_each_backend("batch_norm_act")


def on(backend, *tensors):
    return [t.to(OpTests.device(backend)) for t in tensors]


def truth_of(f):
    with gankernels.backend("reference"):
        return f()


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_running_statistics(backend, dtype, momentum):
    """As PyTorch's: unbiased variance, float32 beside 16-bit x; in evaluation nothing moves."""
    x, mean, var = on(backend, torch.randn(4, 5, 6, 7, dtype=dtype) * 3 + 1, torch.rand(5), torch.rand(5) + 0.5)
    ours, theirs = [mean.clone(), var.clone()], [mean.clone(), var.clone()]
    for _ in range(3):
        batch_norm_act(x, None, None, *ours, training=True, momentum=momentum)
        torch.nn.functional.batch_norm(x, *theirs, training=True, momentum=momentum)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    kept = [t.clone() for t in ours]
    batch_norm_act(x, None, None, *ours, training=False)
    batch_norm_act(x[:0], None, None, *ours, training=True)
    assert all(a.equal(b) for a, b in zip(ours, kept, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_parameters_beside_16_bits(backend, dtype, training):
    x, gy, *channels = on(
        backend,
        torch.randn(4, 5, 6, 7, dtype=dtype).to(memory_format=CHANNELS_LAST),
        torch.randn(4, 5, 6, 7, dtype=dtype),
        *(torch.rand(5) + 0.5 for _ in range(4)),
    )

    def run(cast):
        leaves = [cast(t).detach().clone().requires_grad_() for t in (x, *channels[:2])]
        running = [cast(t).clone() for t in channels[2:]]
        y = batch_norm_act(*leaves, *running, training=training, act="lrelu")
        return [y, *torch.autograd.grad(y, leaves, cast(gy))]

    ours, theirs = run(lambda t: t), truth_of(lambda: run(lambda t: t))
    truth = truth_of(lambda: run(lambda t: t.double()))
    assert [t.dtype for t in ours] == [dtype, dtype, torch.float32, torch.float32]
    assert ours[0].is_contiguous(memory_format=CHANNELS_LAST)
    for a, b, t in zip(ours, theirs, truth, strict=True):
        assert_as_true_as_reference(a, b, t)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 30, 41), (33, 130, 4, 4), (300, 7, 1, 1), (9, 257, 3, 3), (3, 2, 512, 3), (1, 300, 5, 7)]
)
@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_that_cross_tiles_and_blocks(backend, shape, act, dtype, last, training):
    """Values, gradients and second-order gradients."""
    x, v, gy = on(backend, *(torch.randn(shape, dtype=dtype) for _ in range(3)))
    if last:
        x = x.to(memory_format=CHANNELS_LAST)
    w, b, mean, var = on(backend, *(torch.rand(shape[1], dtype=dtype) + 0.5 for _ in range(4)))

    def run(cast):
        leaves = [cast(t).detach().clone().requires_grad_() for t in (x, w, b, gy)]
        running = [] if training else [cast(mean), cast(var)]
        y = batch_norm_act(*leaves[:3], *(running or [None, None]), training=training, act=act)
        first = torch.autograd.grad(y, leaves[:3], leaves[3], create_graph=True)
        direction = [cast(v), *(torch.linspace(-1, 1, shape[1]).to(g) for g in first[1:])]
        second = torch.autograd.grad(first, leaves, direction, allow_unused=True)
        return [y, *first, *(t for t in second if t is not None)]

    ours, theirs = run(lambda t: t), truth_of(lambda: run(lambda t: t))
    truth = truth_of(lambda: run(lambda t: t.double()))
    names = ["y", "dx", "dw", "db", "ddx", "ddw", "ddb", "ddgy"]
    for name, a, r, t in zip(names, ours, theirs, truth, strict=len(ours) == 8):
        assert_as_true_as_reference(a, r, t, name)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("mean", [1e3, 1e4])
def test_mean_far_above_the_deviation(backend, mean, last):
    """float32 inputs around `mean` with deviation 1: exact to what x itself resolves."""
    if backend == "reference":
        pytest.skip("PyTorch's own sums lose this in channels_last")
    (x,) = on(backend, torch.randn(16, 8, 33, 17) + mean)
    x[0] -= 3  # the first sample is not typical of the rest
    if last:
        x = x.to(memory_format=CHANNELS_LAST)
    ours = batch_norm_act(x, None, None, None, None, training=True)
    truth = truth_of(lambda: batch_norm_act(x.double(), None, None, None, None, training=True))
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=2e-7 * mean)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_penalty_through_a_layer(backend, training):
    """What WGAN-GP needs: the parameters' gradient of the norm of an input gradient."""
    x, gy, *channels = on(backend, torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), *(torch.rand(3) for _ in range(4)))

    def run(cast):
        leaves = [cast(t).detach().clone().requires_grad_() for t in (x, *channels[:2])]
        y = batch_norm_act(*leaves, *(cast(t).clone() for t in channels[2:]), training=training, act="lrelu")
        (g,) = torch.autograd.grad((y * y * cast(gy)).sum(), leaves[:1], create_graph=True)
        penalty = (g.flatten(1).norm(dim=1) - 1).square().mean()
        return [penalty, *torch.autograd.grad(penalty, leaves)]

    ours, theirs = run(lambda t: t), truth_of(lambda: run(lambda t: t))
    truth = truth_of(lambda: run(lambda t: t.double()))
    for a, b, t in zip(ours, theirs, truth, strict=True):
        torch.testing.assert_close(a.double(), t, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_second_order_computes_only_what_is_asked_for(backend):
    if backend == "reference":
        pytest.skip("reference leaves pruning to PyTorch")
    x, w, b = (t.requires_grad_() for t in on(backend, torch.randn(2, 3, 4, 4), torch.rand(3), torch.rand(3)))
    y = batch_norm_act(x, w, b, None, None, training=True, act="tanh")
    (g,) = torch.autograd.grad(y.sum(), [x], create_graph=True)
    calls = Calls()
    with calls:
        torch.autograd.grad(g.square().sum(), [w])
    second = [args for name, args in calls.seen if "double_backward" in name]
    assert len(second) == 1
    assert list(second[0]["wanted"]) == [False, False, True, False]
    assert second[0]["p"] is second[0]["q"] is None


def test_third_order_is_refused_by_name(backend):
    if backend == "reference":
        pytest.skip("reference has every order")
    (x,) = (t.requires_grad_() for t in on(backend, torch.randn(2, 3, 4, 4)))
    y = batch_norm_act(x, None, None, None, None, training=True, act="tanh")
    (g,) = torch.autograd.grad(y.pow(2).sum(), [x], create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="batch_norm_act: the derivative of order 3 is not supported"):
        torch.autograd.grad(h.sum(), [x])


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_layer_keeps_its_running_statistics(backend, training, compiler):
    torch._dynamo.reset()
    layer = BatchNormAct2d(3, act="lrelu", alpha=0.2).to(OpTests.device(backend)).train(training)
    twin = BatchNormAct2d(3, act="lrelu", alpha=0.2).to(OpTests.device(backend)).train(training)
    compiled = torch.compile(twin, backend=compiler, fullgraph=True)
    x, u = (t.requires_grad_() for t in on(backend, *[torch.randn(4, 3, 5, 5)] * 2))
    u = x.detach().clone().requires_grad_()
    for _ in range(2):
        layer(x).square().sum().backward()
        compiled(u).square().sum().backward()
    torch.testing.assert_close(dict(twin.named_buffers()), dict(layer.named_buffers()), rtol=1e-6, atol=1e-6)
    assert layer.running_mean.any() == training
    torch.testing.assert_close(u.grad, x.grad, rtol=1e-4, atol=1e-5)
    for a, b in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_batch_of_cotangents(backend):
    """`is_grads_batched` maps over backward."""
    x, w = (t.requires_grad_() for t in on(backend, torch.randn(3, 2, 3, 4), torch.rand(2)))
    y = batch_norm_act(x, w, None, None, None, training=True, act="tanh")
    (gys,) = on(backend, torch.randn(4, *y.shape))
    together = torch.autograd.grad(y, [x, w], gys, is_grads_batched=True, retain_graph=True)
    for i, gy in enumerate(gys):
        for a, b in zip(together, torch.autograd.grad(y, [x, w], gy, retain_graph=True), strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(_backend.native_error is not None, reason="gankernels._C is not built")
def test_direct_calls_are_checked():
    x, one, c = torch.randn(2, 64, 4, 4), torch.ones(1), torch.ones(64)
    tail = (True, 1e-5, "linear", 0.0, 1.0)
    ops = torch.ops.gankernels_native
    with pytest.raises(ValueError, match="weight has shape"):
        ops.batch_norm_act(x, one, None, None, None, *tail)
    with pytest.raises(ValueError, match="expected tensors when not training"):
        ops.batch_norm_act(x, None, None, None, None, False, *tail[1:])
    with pytest.raises(ValueError, match="gy has shape"):
        ops.batch_norm_act_backward(x[:1, :, :1, :1], x, None, None, c, c, True, "linear", 0.0, 1.0, [True] * 3)
    with pytest.raises(ValueError, match="mean has shape"):
        ops.batch_norm_act_backward(x, x, None, None, one, c, True, "linear", 0.0, 1.0, [True] * 3)
