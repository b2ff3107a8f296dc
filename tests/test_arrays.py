"""NumPy and CuPy arrays in, the same kind out; never a silent copy back, a warning, or a lost gradient."""

import inspect
import pickle
import sys
import types
import warnings

import numpy as np
import pytest
import torch

import gankernels
from gankernels import nn, ops

OPERATORS = [name for name in ops.__all__ if name not in ops.NO_ARRAYS]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


X, BIAS, WEIGHT, TAPS = draw(2, 3, 6, 5), draw(3), draw(4, 3, 3, 3), np.array([1.0, 3, 3, 1], np.float32)
CALLS = [
    ("bias_act", (X, BIAS), {"act": "lrelu"}),
    ("bias_act", (X,), {"act": "swish", "clamp": 0.5}),
    ("bias_act", (), {"x": X, "bias": BIAS}),
    ("batch_norm_act", (X, BIAS, None, None, None), {"training": True, "act": "relu"}),
    ("instance_norm_act", (X, BIAS), {"act": "lrelu"}),
    ("adain", (X, draw(2, 3), draw(2, 3, seed=1)), {}),
    ("adain_from", (X, draw(2, 3, 4, 4)), {}),
    ("conditional_batch_norm", (X, draw(2, 3), draw(2, 3, seed=1), None, None), {"training": True}),
    ("spade_norm", (X, draw(2, 3, 6, 5), X), {"training": True, "act": "relu"}),
    ("conv2d", (X, WEIGHT), {"padding": 1}),
    ("conv2d", (X,), {"weight": WEIGHT, "bias": draw(4), "stride": 2}),
    ("conv_transpose2d", (X, draw(3, 4, 4, 4)), {"stride": 2, "padding": 1}),
    ("conv2d_resample", (X, WEIGHT, np.outer(TAPS, TAPS) / 64), {"up": 2, "padding": 1}),
    ("modulate_act", (X, draw(2, 3), BIAS), {"noise": draw(6, 5), "act": "lrelu"}),
    ("modulated_conv2d", (X, WEIGHT, draw(2, 3)), {"padding": 1}),
    ("modulated_conv2d_act", (X, WEIGHT, draw(2, 3), draw(4)), {"padding": 1, "act": "lrelu"}),
    ("upfirdn2d", (X, TAPS), {"up": 2, "padding": 2}),
    ("upfirdn2d", (X, None), {"down": 2}),
    ("filter2d", (X, TAPS), {}),
    ("upsample2d", (X, TAPS), {}),
    ("downsample2d", (X, TAPS), {}),
    ("filtered_lrelu", (X, TAPS, TAPS, BIAS), {"up": 2, "down": 2, "padding": 3}),
    ("minibatch_stddev", (X,), {"group_size": 2}),
    ("pixel_norm", (X,), {}),
    ("pixel_shuffle_act", (draw(2, 4, 3, 2), 2, draw(4)), {"act": "lrelu"}),
    ("add_noise", (X, draw(2, 1, 6, 5), BIAS), {}),
    ("fade_in", (draw(2, 3, 6, 4), draw(2, 4, 3, 2), 0.25, draw(3, 4), BIAS), {}),
    ("gradient_reversal", (X,), {}),
    ("maxout", (draw(2, 6, 3, 2), 3), {}),
    ("grid_sample2d", (X, draw(2, 3, 4, 2)), {}),
    ("affine_grid_sample2d", (X, draw(2, 2, 3), (4, 3)), {}),
    ("self_attention2d", (X, draw(2, 3, 2, 2), draw(2, 5, 2, 2)), {}),
    ("sum_squares_per_sample", (X,), {}),
    ("norm_per_sample", (X,), {}),
]


def as_tensors(args, kwargs):
    def one(value):
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    return [one(a) for a in args], {k: one(v) for k, v in kwargs.items()}


@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS, ids=[f"{c[0]}{i}" for i, c in enumerate(CALLS)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_numpy_in_numpy_out(name, args, kwargs, backend):
    if reason := gankernels.why_not(backend, "cpu", name if name in gankernels._backend.operators() else None):
        pytest.skip(reason)
    before = [a.copy() for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
    op = getattr(ops, name)
    with gankernels.backend(backend):
        y = op(*args, **kwargs)
        tensors, named = as_tensors(args, kwargs)
        expected = op(*tensors, **named)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, expected.numpy())
    for a, b in zip((a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_operator_takes_arrays():
    assert {name for name, *_ in CALLS} == set(OPERATORS)
    for name in OPERATORS:
        assert getattr(ops, name).__wrapped__.__name__ == name
        with pytest.raises(ValueError, match=rf"^{name}: \w+ has dtype <U1"):
            getattr(ops, name)(np.array(["a"]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes(dtype):
    y = ops.bias_act(X.astype(dtype), BIAS.astype(dtype), act="tanh")
    assert y.dtype == dtype


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


UNUSUAL = {
    "read-only": _read_only,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "reversed": lambda a: a[..., ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "fortran": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "a field": lambda a: a.astype([("a", "i1"), ("v", a.dtype)])["v"],
    "empty": lambda a: a[:0],
    "memory-mapped": None,
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_arrays_are_right(kind, tmp_path):
    if kind == "memory-mapped":
        np.save(tmp_path / "x.npy", X)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    else:
        x = UNUSUAL[kind](X)
    plain = np.ascontiguousarray(x).astype(np.float32)
    y = ops.bias_act(x, _read_only(BIAS), act="lrelu")
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, ops.bias_act(plain, BIAS, act="lrelu"))
    np.testing.assert_array_equal(np.asarray(x, np.float32), plain)
    assert y.flags.writeable


def test_a_writable_array_is_shared_and_channels_last_stays():
    x = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = ops.bias_act(x, BIAS)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_the_result_owns_its_memory():
    x = X.copy()
    with gankernels.backend("reference"):
        y = ops.bias_act(x)  # the identity, which the reference returns as it is
    y[:] = 7
    np.testing.assert_array_equal(x, X)


def test_running_statistics_move_in_place():
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    ops.batch_norm_act(X, None, None, mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(mean, X.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, X.var((0, 2, 3), ddof=1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["read-only", "big-endian", "reversed"])
def test_running_statistics_that_cannot_be_written_are_refused_before_anything_is(kind):
    mean, var = np.zeros(3, np.float32), UNUSUAL[kind](np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"running_var is written in place, .* numpy.array\(running_var, 'float32'"):
        ops.batch_norm_act(X, None, None, mean, var, training=True)
    assert not mean.any()
    ops.batch_norm_act(X, None, None, mean, var, training=False)  # which only reads


MIXTURES = [
    (lambda: ops.bias_act(torch.from_numpy(X), BIAS), "bias_act: bias is ndarray, expected a torch.Tensor; arrays are"),
    (lambda: ops.bias_act(X, torch.zeros(3, requires_grad=True)), "bias_act: bias is a tensor that requires grad"),
    (lambda: ops.bias_act([[1.0]]), "bias_act: x is list, expected a torch.Tensor"),
    (lambda: ops.bias_act(None), "bias_act: x is NoneType"),
    (lambda: ops.bias_act(X.astype(int)), "bias_act: x has dtype torch.int64"),
    (lambda: ops.bias_act(X.astype(complex)), "bias_act: x has dtype torch.complex128"),
    (lambda: ops.bias_act(X.astype(object)), "bias_act: x has dtype object, expected float16"),
    (lambda: ops.bias_act(X.astype(np.longdouble)), "bias_act: x has dtype float128"),
    (lambda: ops.bias_act(np.array(["a"])), "bias_act: x has dtype <U1"),
    (lambda: ops.bias_act(np.ma.masked_array(X)), "bias_act: x is a masked array"),
    (lambda: ops.bias_act(X, BIAS.astype(np.float64)), "bias_act: bias has dtype torch.float64, expected torch.float"),
    (lambda: ops.bias_act(X, BIAS[:2]), r"bias_act: bias has shape \[2\]"),
    (lambda: ops.setup_filter(np.array(["a"])), "setup_filter: f has dtype"),
]


@pytest.mark.parametrize(("call", "message"), MIXTURES, ids=range(len(MIXTURES)))
def test_mixtures_and_dtypes_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_tensors_without_gradient_may_stand_beside_an_array():
    taps = ops.setup_filter([1, 3, 3, 1])
    y = ops.upsample2d(X, taps)
    np.testing.assert_array_equal(y, ops.upsample2d(torch.from_numpy(X), taps).numpy())
    weight = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        assert type(ops.bias_act(X, weight)) is np.ndarray


def test_a_bfloat16_result_is_refused():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="conv2d: the result is bfloat16"):
        ops.conv2d(X, WEIGHT)


@pytest.mark.parametrize("kind", ["read-only", "reversed", "big-endian"])
def test_setup_filter_takes_any_array_and_makes_a_tensor(kind):
    taps = UNUSUAL[kind](np.array([1, 2, 3]))
    assert torch.equal(ops.setup_filter(taps), ops.setup_filter(taps.tolist()))


def test_wrong_calls_raise_type_errors():
    with pytest.raises(TypeError, match="bias_act"):
        ops.bias_act()
    with pytest.raises(TypeError, match="bias_act"):
        ops.bias_act(X, BIAS, 3, 4, 5)
    with pytest.raises(TypeError, match="unexpected"):
        ops.bias_act(X, biass=BIAS)


def test_the_functions_keep_their_faces():
    for name in ops.__all__:
        function = getattr(ops, name)
        assert function.__name__ == name
        assert inspect.getdoc(function)
        assert pickle.loads(pickle.dumps(function)) is function
    assert list(inspect.signature(ops.bias_act).parameters)[:3] == ["x", "bias", "dim"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_without_a_graph_break(dynamic):
    compiled = torch.compile(
        lambda x, w, b, f: ops.upsample2d(ops.bias_act(x=ops.conv2d(x, w, padding=1), bias=b, act="lrelu"), f),
        backend="aot_eager", fullgraph=True, dynamic=dynamic,
    )  # fmt: skip
    x, w, b = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(5, 3, 3, 3), torch.randn(5)
    f = ops.setup_filter([1, 3, 3, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = compiled(x, w, b, f)
    torch.testing.assert_close(y, ops.upsample2d(ops.bias_act(ops.conv2d(x, w, padding=1), b, act="lrelu"), f))
    y.sum().backward()


def test_modules_take_tensors_as_before():
    module = nn.Conv2d(3, 4, 3) if hasattr(nn, "Conv2d") else None
    if module is None:
        pytest.skip("no Conv2d module")
    y = module(torch.from_numpy(X))
    assert isinstance(y, torch.Tensor)
    assert y.requires_grad


class FakeCupyArray:
    """As much of cupy.ndarray as is asked of it, over NumPy memory: DLPack on a device that this machine has."""

    def __init__(self, data):
        self.data = np.asarray(data)
        self.exports = 0

    dtype = property(lambda self: self.data.dtype)
    strides = property(lambda self: self.data.strides)
    itemsize = property(lambda self: self.data.itemsize)

    def __dlpack__(self, **options):
        self.exports += 1
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()


@pytest.fixture
def cupy(monkeypatch):
    module = types.ModuleType("cupy")
    module.ndarray = FakeCupyArray
    module.from_dlpack = lambda t: FakeCupyArray(np.from_dlpack(t))
    module.array = lambda a, dtype, order, copy: FakeCupyArray(np.array(a.data, dtype=dtype, order=order, copy=copy))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_cupy_in_cupy_out(cupy):
    x, bias = FakeCupyArray(X.copy()), FakeCupyArray(BIAS.copy())
    y = ops.bias_act(x, bias, act="lrelu")
    assert type(y) is FakeCupyArray
    assert x.exports == bias.exports == 1
    np.testing.assert_array_equal(y.data, ops.bias_act(X, BIAS, act="lrelu"))
    reversed_x = FakeCupyArray(X[..., ::-1])
    np.testing.assert_array_equal(ops.bias_act(reversed_x, act="relu").data, ops.bias_act(X[..., ::-1], act="relu"))
    assert not reversed_x.exports  # a copy was


def test_cupy_beside_numpy_is_refused(cupy):
    with pytest.raises(ValueError, match=r"bias is a numpy.ndarray, expected a cupy.ndarray as x"):
        ops.bias_act(FakeCupyArray(X), BIAS)
    with pytest.raises(ValueError, match=r"bias is a cupy.ndarray, expected a numpy.ndarray as x"):
        ops.bias_act(X, FakeCupyArray(BIAS))


def test_importing_gankernels_imports_no_cupy():
    import subprocess

    code = "import sys, gankernels.ops; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
