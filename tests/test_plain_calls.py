"""The compiled short ways into the operators: taken by ordinary calls, refused by all others, and never different."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gankernels
from gankernels import _backend, ops

pytestmark = pytest.mark.skipif(_backend._C is None, reason=str(_backend.native_error))

X, W, B = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 3), torch.randn(4)
CHANNELS = (torch.rand(3), torch.randn(3), torch.zeros(3), torch.ones(3))

ORDINARY = {
    "conv2d": [
        (X, W, B, 1, 1, 1, 1),
        (X, W, None, (2, 1), (0, 1), 1, 1),
        (X.double(), W.double(), None, 1, 0, 2, 1),
        (X[:0], W, B, 1, 1, 1, 1),
        (X, torch.randn(6, 1, 3, 3), None, 1, 1, 1, 3),
        (torch.nn.Parameter(X), torch.nn.Parameter(W), torch.nn.Parameter(B), 1, 1, 1, 1),
        (X.contiguous(memory_format=torch.channels_last), W, B, 1, 1, 1, 1),
    ],
    "conv_transpose2d": [
        (X, W.transpose(0, 1), B, 2, 1, 1, 1, 1),
        (X.bfloat16(), torch.randn(3, 2, 3, 3).bfloat16(), None, (2, 3), 0, 0, 1, (1, 2)),
        (X, torch.randn(3, 2, 3, 3), torch.randn(6), 1, 0, 0, 3, 1),
    ],
    "bias_act": [
        (X, B[:3], 1, "lrelu", 0.2, 1.5, 0.5),
        (X.half(), None, 0, "linear", 0.0, 1.0, -1.0),
        (X, torch.randn(5), 3, "tanh", 0.0, 1.0, -1.0),
    ],
    "batch_norm_act": [
        (X, *CHANNELS, False, 0.1, 1e-5, "relu", 0.0, 1.0),
        (X.bfloat16(), *CHANNELS, False, 0.1, 1e-5, "relu", 0.0, 1.0),
        (X, None, None, None, None, True, 0.1, 1e-5, "lrelu", 0.2, 1.0),
    ],
}


def taken(op, args):
    return _backend.plain_call(op)(*args) is not NotImplemented


@pytest.mark.parametrize("op", ORDINARY)
def test_ordinary_calls_are_taken(op):
    for args in ORDINARY[op]:
        assert taken(op, args), args[1:]


def changed(args, i, value):
    return (*args[:i], value, *args[i + 1 :])


class Subclass(torch.Tensor):
    pass


def others():
    """Operator and arguments, each wrong or unusual in one way."""
    for op, cases in ORDINARY.items():
        args = cases[0]
        for x in (
            X.long(), X[0, 0, 0, 0], X.to("meta"), X.as_subclass(Subclass), X.to_sparse(), "x", None, X.to(torch.cfloat)
        ):  # fmt: skip
            yield op, changed(args, 0, x)
        for second in (W.double(), B.to("meta"), torch.randn(7), 1.0):
            yield op, changed(args, 1, second)
        yield op, args[:-1]
    for op, numbers in {"conv2d": range(3, 7), "conv_transpose2d": range(3, 8)}.items():
        for i in numbers:
            for value in (True, -1, 1.0, "same", (1, 2, 3), [1, 1], None, 1 << 62):
                yield op, changed(ORDINARY[op][0], i, value)
        yield op, changed(ORDINARY[op][0], 0, X[:, :2])
        yield op, changed(ORDINARY[op][0], 2, B.double())
    yield "conv2d", (X, torch.randn(4, 3, 9, 9), None, 1, 1, 1, 1)
    yield "conv_transpose2d", (X, W.transpose(0, 1), None, 2, 9, 0, 1, 1)
    for i, values in {2: (4, -1, True), 3: (1, b"relu"), 4: (1, float("nan")), 5: (True,), 6: (float("inf"),)}.items():
        for value in values:
            yield "bias_act", changed(ORDINARY["bias_act"][0], i, value)
    bn = ORDINARY["batch_norm_act"][0]
    values_at = {
        1: (torch.ones(4), torch.ones(3).double()), 3: (None, torch.ones(3, requires_grad=True)), 4: (None,),
        5: (1, None), 6: (float("nan"), 1), 7: (0.0, -1.0), 8: (None,), 9: (float("inf"),), 10: (1,),
    }  # fmt: skip
    for i, values in values_at.items():
        for value in values:
            yield "batch_norm_act", changed(bn, i, value)
    yield "batch_norm_act", changed(changed(bn, 0, X[:1, :, :1, :1]), 5, True)
    yield "batch_norm_act", changed(bn, 0, X[:0])


def test_others_are_refused():
    refused = list(others())
    assert len(refused) > 120
    for op, args in refused:
        assert not taken(op, args), (op, args[1:])


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("op", ORDINARY)
def test_no_mode_or_transform_is_passed_by(op):
    args = ORDINARY[op][0]
    for context in (Functions(), Dispatches(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert not taken(op, args), context
    seen = []
    torch.func.vmap(lambda x: (seen.append(taken(op, changed(args, 0, x))), x)[1])(X[None])
    assert seen == [False]
    fake = torch._subclasses.FakeTensorMode()
    assert not taken(op, changed(args, 0, fake.from_tensor(X)))


def test_a_forced_backend_is_kept():
    with gankernels.backend("reference"):
        assert not _backend.plain_calls()
        assert "Convolution" in ops.conv2d(X, W.clone().requires_grad_()).grad_fn.name()
    assert _backend.plain_calls()
    assert "Contract" in ops.conv2d(X, W.clone().requires_grad_()).grad_fn.name()


def run(op):
    """Results and gradients of `op` by its public function, and the running statistics after it."""
    x = X.clone().requires_grad_()
    state = [t.clone() for t in CHANNELS]
    calls = {
        "conv2d": lambda: ops.conv2d(x, W, B, (2, 1), 1),
        "conv_transpose2d": lambda: ops.conv_transpose2d(x, W.transpose(0, 1), B, 2, 1, 1),
        "bias_act": lambda: ops.bias_act(x, B[:3], act="swish", clamp=0.7),
        "batch_norm_act": lambda: ops.batch_norm_act(x, *state, training=True, momentum=0.3, act="lrelu"),
    }
    y = calls[op]()
    return [y, torch.autograd.grad(y.square().sum(), x)[0], *state]


@pytest.mark.parametrize("op", ORDINARY)
def test_both_ways_are_one_operator(op, monkeypatch):
    short = run(op)
    monkeypatch.setattr(_backend, "plain_calls", lambda: False)
    for a, b in zip(short, run(op), strict=True):
        assert torch.equal(a, b)
