"""Keyed draws: the compiled kernel and PyTorch's integers against Python's, and what normal numbers are of them."""

import math

import pytest
import torch
from op_tests import Calls, on_each_backend
from scipy import stats

import gankernels
from gankernels.nn import AugmentPipe, _augment_draws, sample_keys
from gankernels.nn._augment_draws import keyed_normal, keyed_uniform

WORD = 2**32 - 1
DTYPES = [torch.float32, torch.float64]
needs_cpu = pytest.mark.skipif(bool(gankernels.why_not("cpu", "cpu")), reason=str(gankernels.why_not("cpu", "cpu")))


backend = on_each_backend(names=("reference", "cpu"))


def mix(word):
    word = (word ^ word >> 16) * 0x21F0AAAD & WORD
    word = (word ^ word >> 15) * 0x735A2D97 & WORD
    return word ^ word >> 15


def unmix(word):
    """What `mix` makes `word` of; a shift by 15 or more is undone by two more of it."""
    word ^= word >> 15 ^ word >> 30
    word = word * pow(0x735A2D97, -1, 2**32) & WORD
    word ^= word >> 15 ^ word >> 30
    word = word * pow(0x21F0AAAD, -1, 2**32) & WORD
    return word ^ word >> 16


def number(key, place, stream):
    sample = mix(mix(key & WORD) ^ (key >> 32 & WORD))
    return (mix(sample ^ mix(place + (stream + 1) * 0x1000193) & WORD) >> 8) + 0.5


def keys_that_draw(words):
    """Keys whose first number of stream 0 is made of these words of 24 bits."""
    first = mix(0x1000193)
    high = [unmix(unmix(w << 8) ^ first) for w in words]
    return torch.tensor([h << 32 if h < 2**31 else (h << 32) - 2**64 for h in high])


def truth(uniform):
    return math.sqrt(2) * torch.special.erfinv(2 * uniform.double() - 1)


@pytest.mark.parametrize("stream", [0, 1, 254, 255, 70000, 2**32 - 1])
def test_numbers(backend, stream):
    """Those of Python's integers; the places of high streams pass 32 bits, within a block too."""
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
    count = 600 if stream == 254 else 40
    drawn = keyed_uniform(keys, count, stream, torch.float64)
    expected = [[number(int(key), j, stream) * 2**-24 for j in range(count)] for key in keys]
    assert drawn.tolist() == [[min(u, 1 - 2**-24) for u in row] for row in expected]


def test_kept_numbers(backend):
    """A sequence that trainings have begun with stays what it is."""
    keys = sample_keys(3, torch.tensor([0, 5]), seed=9)
    words = keyed_uniform(keys, 3, 1, torch.float64) * 2**24 - 0.5
    assert words.tolist() == [[11394460, 9732292, 7702380], [15396792, 926735, 9712657]]


@needs_cpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_equals_reference(dtype):
    for n, count in [(0, 5), (3, 0), (1, 1), (2, 31), (2, 33), (3, 511), (2, 512), (2, 1025), (40, 700)]:
        keys = sample_keys(1, torch.arange(2 * n))[::2]
        for stream in (0, 7):
            with gankernels.backend("cpu"):
                ours = keyed_uniform(keys, count, stream, dtype), keyed_normal(keys, count, stream, dtype)
            with gankernels.backend("reference"):
                theirs = keyed_uniform(keys, count, stream, dtype), keyed_normal(keys, count, stream, dtype)
            assert ours[0].equal(theirs[0])
            assert ours[0].dtype == ours[1].dtype == dtype
            torch.testing.assert_close(ours[1], theirs[1], rtol=16 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normals_are_as_near_as_said(backend, dtype):
    """At every 499th word of 24 bits, and at the ends, of which the largest rounds to 1 in float32."""
    keys = keys_that_draw([*range(0, 2**24, 499), 1, 2, 2**23 - 1, 2**23, 2**24 - 3, 2**24 - 2, 2**24 - 1])
    uniform, drawn = (draw(keys, 1, 0, dtype) for draw in (keyed_uniform, keyed_normal))
    assert uniform[0] == 2**-25
    assert uniform[-1] == 1 - 2**-24
    wide = uniform.double()
    assert ((drawn - truth(wide)).abs() <= truth(wide).abs() * (6e-7 if dtype == torch.float32 else 2e-15)).all()
    assert drawn.abs().max() > 5.3


def test_moments(backend):
    keys = sample_keys(0, torch.arange(200))
    uniform, drawn = keyed_uniform(keys, 2000, 0, torch.float32), keyed_normal(keys, 2000, 1, torch.float32).double()
    assert abs(uniform.double().mean() - 0.5) < 5 * math.sqrt(1 / 12 / 4e5)
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(drawn.pow(power).mean() - expected) < 5 * math.sqrt(variance / 4e5)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("draw", [keyed_uniform, keyed_normal])
def test_a_number_depends_on_its_key_and_place_alone(backend, draw):
    keys = sample_keys(2, torch.arange(9))
    whole = draw(keys, 1500, 1, torch.float32)
    assert draw(keys[4:7], 1500, 1, torch.float32).equal(whole[4:7])
    for count in (1, 30, 45, 513):
        assert draw(keys, count, 1, torch.float32).equal(whole[:, :count])
    assert not draw(keys, 1500, 2, torch.float32).equal(whole)
    threads = torch.get_num_threads()
    keys = sample_keys(2, torch.arange(64))
    try:
        torch.set_num_threads(1)
        alone = draw(keys, 4099, 0, torch.float32)
        torch.set_num_threads(2)
        assert draw(keys, 4099, 0, torch.float32).equal(alone)
    finally:
        torch.set_num_threads(threads)


@needs_cpu
def test_which_path_runs():
    def ran(name):
        with gankernels.backend(name), Calls() as calls:
            AugmentPipe(1, "noise")(torch.zeros(2, 3, 4, 4), keys=sample_keys(0, torch.arange(2)))
        return [name for name, _ in calls.seen].count("gankernels_native::keyed_draws")

    assert ran("cpu") == 2
    assert ran("reference") == 0


@needs_cpu
def test_registrations():
    op, keys = torch.ops.gankernels_native.keyed_draws, sample_keys(0, torch.arange(6))
    for dtype in DTYPES:
        for gaussian in (False, True):
            torch.library.opcheck(op, (keys, 70, 1, dtype, gaussian))
    mapped = torch.vmap(lambda k: op(k, 5, 0, torch.float32, True), in_dims=1)(keys.view(3, 2))
    assert mapped.shape == (2, 3, 5)
    assert mapped[1].equal(op(keys[1::2], 5, 0, torch.float32, True))


class Drawing(torch.nn.Module):
    def forward(self, keys):
        return keyed_normal(keys, 50, 1, torch.float32) + keyed_uniform(keys, 50, 0, torch.float32)


def test_compile_and_export(backend):
    keys = sample_keys(4, torch.arange(7))
    expected = Drawing()(keys)
    torch._dynamo.reset()
    compiled = torch.compile(Drawing(), backend="aot_eager", fullgraph=True, dynamic=True)
    assert compiled(keys).equal(expected)
    assert compiled(keys[:3]).equal(expected[:3])
    batch = {"keys": {0: torch.export.Dim("n")}}
    program = torch.export.export(Drawing(), (keys,), dynamic_shapes=batch)
    assert program.module()(keys[:4]).equal(expected[:4])
    plain = program.run_decompositions(gankernels.onnx.decompositions())
    assert not any("gankernels" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(keys), expected, rtol=2e-6, atol=2e-6)


def test_bad_input(backend):
    keys, dtype = sample_keys(0, torch.arange(3)), torch.float32
    for args, message in [
        (([1, 2], 4, 0, dtype), "keys is list"),
        ((keys.int(), 4, 0, dtype), r"keys is torch.int32 \[3\], expected torch.int64 \[N\]"),
        ((keys[None], 4, 0, dtype), r"keys is torch.int64 \[1, 3\]"),
        ((keys, -1, 0, dtype), "count is -1, expected an integer of 0 or more"),
        ((keys, 4, -1, dtype), "stream is -1"),
        ((keys, 4, 2**32, dtype), "stream is 4294967296, expected an integer of 0 or more, below 2"),
        ((keys, 4, 0, torch.float16), "dtype is torch.float16, expected torch.float32 or torch.float64"),
    ]:
        for draw in (keyed_uniform, keyed_normal):
            with pytest.raises(ValueError, match=message):
                draw(*args)
        if backend == "cpu" and isinstance(args[0], torch.Tensor):
            with pytest.raises(ValueError, match=message.split(" ")[0]):
                torch.ops.gankernels_native.keyed_draws(*args, False)
    assert _augment_draws.reference(keys, 2, 0, dtype, False).shape == (3, 2)
