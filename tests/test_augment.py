"""AugmentPipe against slow compositions in NumPy, a sample and a transform at a time."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import wavelets
from op_tests import Calls
from scipy import stats
from slow_augment import COLOUR, GEOMETRY, WAVELETS, Slow, config, draws_of, keys_of, slow_filter, slow_resample

import gankernels
from gankernels.nn import PRESETS, AugmentConfig, AugmentPipe, sample_keys
from gankernels.nn import _augment_maps as maps
from gankernels.nn._augment_draws import keyed_uniform
from gankernels.nn.augment import band_filters, reflect


@pytest.mark.parametrize("name", [*GEOMETRY, "all"])
def test_geometry(name):
    names = GEOMETRY if name == "all" else (name,)
    x, keys = torch.randn(6, 2, 14, 17, dtype=torch.float64), keys_of(6, 3)
    pipe = AugmentPipe(1 if name != "all" else 0.7, config(*names))
    y, draws = pipe(x, keys=keys), draws_of(pipe, keys)
    moved = 0
    for i in range(len(x)):
        g = Slow(draws, i).forward_map(14, 17)
        moved += not np.array_equal(g, np.eye(3))
        for c in range(2):
            np.testing.assert_allclose(y[i, c], slow_resample(x[i, c].numpy(), g), atol=1e-6)
    assert moved >= 2
    wide = AugmentPipe(float(pipe.p), pipe.config, margin=40)(x, keys=keys)
    torch.testing.assert_close(wide, y, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*COLOUR, "all"])
def test_colour(name):
    pipe = AugmentPipe(1 if name != "all" else 0.7, config(*(COLOUR if name == "all" else (name,))))
    keys = keys_of(8)
    draws = draws_of(pipe, keys)
    x, grey = torch.randn(8, 3, 3, 4, dtype=torch.float64), torch.randn(8, 1, 3, 4, dtype=torch.float64)
    y, y_grey = pipe(x, keys=keys), pipe(grey, keys=keys)
    for i in range(8):
        m = torch.from_numpy(Slow(draws, i).colour_map())
        expected = torch.einsum("ij,jhw->ihw", m[:3, :3], x[i]) + m[:3, 3, None, None]
        torch.testing.assert_close(y[i], expected, atol=1e-6, rtol=0)
        expected = torch.einsum("ij,jhw->ihw", m[:3, :3], grey[i].expand(3, 3, 4)) + m[:3, 3, None, None]
        torch.testing.assert_close(y_grey[i, 0], expected.mean(0), atol=1e-6, rtol=0)
    assert (y != x).any() or name in ("hue", "saturation")
    assert name in ("hue", "saturation") or (y_grey != grey).any()


@pytest.mark.parametrize("size", [(30, 33), (9, 12)], ids=["large", "smaller than the filter"])
def test_filter(size):
    pipe, keys = AugmentPipe(0.6, "filter"), keys_of(5)
    x = torch.randn(5, 2, *size, dtype=torch.float64)
    y, draws = pipe(x, keys=keys), draws_of(pipe, keys)
    for i in range(5):
        gains = Slow(draws, i).band_gains()
        for c in range(2):
            np.testing.assert_allclose(y[i, c], slow_filter(x[i, c].numpy(), gains), atol=1e-5)


def test_bands():
    bands = band_filters(WAVELETS["sym2"].tolist())
    np.testing.assert_allclose(bands.sum(0), np.eye(43)[21], atol=1e-12)
    np.testing.assert_allclose(bands, bands[:, ::-1], atol=1e-15)
    omega = np.array([0.05, 0.19, 0.37, 0.75]) * np.pi  # in the middle of each band
    response = np.abs(bands @ np.exp(-1j * np.outer(np.arange(43) - 21, omega)))
    assert (response.argmax(0) == [0, 1, 2, 3]).all()


def test_noise_and_cutout():
    x, keys = torch.zeros(200, 3, 20, 24), keys_of(200)
    y = AugmentPipe(1, "noise")(x, keys=keys)
    level = maps.noise_level(draws_of(AugmentPipe(1, "noise"), keys), PRESETS["noise"])
    ratio = y.flatten(1).std(1) / level
    assert (ratio - 1).abs().max() < 0.1
    assert stats.kstest((y / level[:, None, None, None]).flatten().numpy()[::7], "norm").pvalue > 1e-3
    assert stats.kstest(level.numpy() / 0.1, "halfnorm").pvalue > 1e-3
    cut = AugmentPipe(1, "cutout")(x + 1, keys=keys)
    draws = draws_of(AugmentPipe(1, "cutout"), keys)
    for i in range(0, 200, 9):
        cx, cy = draws.of("cutout")[i].tolist()
        expected = np.ones((20, 24))
        columns = [j for j in range(24) if abs((j + 0.5) / 24 - cx) < 0.25]
        rows = [j for j in range(20) if abs((j + 0.5) / 20 - cy) < 0.25]
        expected[np.ix_(rows, columns)] = 0
        np.testing.assert_array_equal(cut[i], np.broadcast_to(expected, (3, 20, 24)))
    assert (1 - cut).mean() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", PRESETS)
def test_identity_at_zero(preset, dtype):
    x = torch.randn(3, 1 if preset == "color" else 3, 8, 9).to(dtype)
    for margin in (None, 4):
        assert AugmentPipe(0, preset, margin)(x).equal(x)
        y = AugmentPipe(1, preset, margin)(x)
        assert y.dtype == dtype
        assert y.isfinite().all()


def test_probabilities():
    pipe, n = AugmentPipe(0.36, "bgcfnc"), 20000
    draws = draws_of(pipe, keys_of(n))
    for name, share in zip(maps.TRANSFORMS, draws.taken.double().mean(0).tolist(), strict=True):
        p = 0.2 if name.startswith("rotation_") else 0.36  # 1 - sqrt(0.64)
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n), name
    half = AugmentPipe(0.8, dataclasses.replace(PRESETS["bgc"], hue=0.5, x_flip=0))
    shares = dict(zip(maps.TRANSFORMS, half.probabilities().tolist(), strict=True))
    assert shares["x_flip"] == shares["cutout"] == 0
    assert shares["hue"] == pytest.approx(0.4)
    assert shares["saturation"] == pytest.approx(0.8)
    half.p.fill_(7.0)
    assert half.probabilities().max() == 1


def test_draws_are_uniform_and_independent():
    u = keyed_uniform(keys_of(4000), 12, 0, torch.float64)
    assert u.min() > 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4
    others = [
        u,
        keyed_uniform(keys_of(4000, step=6), 12, 0, torch.float64),
        keyed_uniform(keys_of(4000), 12, 1, u.dtype),
    ]
    correlation = np.corrcoef(np.concatenate([t.numpy().T for t in others] + [u.roll(1, 0).numpy().T]))
    assert np.abs(correlation - np.eye(48)).max() < 0.08
    assert stats.kstest(keyed_uniform(keys_of(2), 20000, 1, u.dtype).flatten().numpy(), "uniform").pvalue > 1e-4


def test_keys():
    index = torch.arange(6)
    assert (
        len({*sample_keys(0, index).tolist(), *sample_keys(1, index).tolist(), *sample_keys(2**33, index).tolist()})
        == 18
    )
    assert sample_keys(0, index, seed=1).tolist() != sample_keys(0, index).tolist()
    assert sample_keys(torch.tensor(7), index).equal(sample_keys(7, index))
    x, pipe = torch.randn(6, 3, 10, 10), AugmentPipe(0.8, "bgcfnc")
    whole = pipe(x, keys=keys_of(6))
    assert pipe(x, keys=keys_of(6)).equal(whole)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    for part in (order[:1], order[1:3], order[3:]):
        torch.testing.assert_close(pipe(x[part], keys=keys_of(6)[part]), whole[part], atol=1e-4, rtol=0)
    assert not pipe(x, keys=keys_of(6, step=8)).equal(whole)


def test_generator():
    x, pipe = torch.randn(4, 3, 8, 8), AugmentPipe(0.8, "bgcfnc")
    first, again, other = (pipe(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
    state = torch.get_rng_state()
    pipe(x, torch.Generator())
    pipe(x, keys=keys_of(4))
    assert torch.get_rng_state().equal(state), "PyTorch's own generator was moved"
    pipe(x)
    assert not torch.get_rng_state().equal(state)


def test_a_generator_that_draws_0(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **kw: torch.zeros(shape, dtype=kw["dtype"]))
    assert AugmentPipe(1.0, "noise")(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_derivatives(backend):
    x, keys = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True), keys_of(2)
    pipe = AugmentPipe(0.9, "bgcfnc")
    with gankernels.backend(backend):
        assert torch.autograd.gradcheck(lambda x: pipe(x, keys=keys), x)
        assert torch.autograd.gradgradcheck(lambda x: pipe(x, keys=keys), x, fast_mode=True)


def test_passes_of_the_geometry():
    """The image is walked over by three kernels, in every order of derivative; nothing makes a grid."""
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    pipe, gy = AugmentPipe(1, "bg"), torch.randn(2, 3, 16, 16, requires_grad=True)

    def ran(f):
        with gankernels.backend("cpu"), Calls() as calls:
            result = f()
        return result, [n.split("::")[1].split(".")[0] for n, _ in calls.seen if n.startswith("gankernels")]

    y, names = ran(lambda: pipe(x, keys=keys_of(2)))
    assert names == ["keyed_draws", "upfirdn2d", "grid_sample2d", "upfirdn2d"]
    (gx,), names = ran(lambda: torch.autograd.grad(y, x, gy, create_graph=True))
    assert names == ["upfirdn2d", "grid_sample2d_adjoint", "upfirdn2d"]
    _, names = ran(lambda: torch.autograd.grad(gx.square().sum(), gy))
    assert names == ["upfirdn2d", "grid_sample2d", "upfirdn2d"]


def test_nothing_is_resampled_where_nobody_takes_part():
    x = torch.randn(2, 3, 16, 16)
    with Calls() as calls:
        AugmentPipe(0, "bg")(x)
    assert not {n for n in calls.names() if n.startswith("gankernels")}


def test_far_maps_meet_black_beyond_one_reflection():
    x = torch.ones(64, 1, 8, 8)
    far = AugmentPipe(1, dataclasses.replace(config("isotropic_scale"), scale_octaves=1.0))
    y = far(x, keys=keys_of(64))
    assert y.min() < 0.1
    torch.testing.assert_close(y[..., 3:5, 3:5], torch.ones(64, 1, 2, 2), atol=0.25, rtol=0)


def test_reflect():
    x = torch.randn(1, 1, 3, 4)
    for across, down in [(0, 0), (2, 1), (9, 11), (0, 7)]:
        padding = [(0, 0), (0, 0), (down, down), (across, across)]
        np.testing.assert_array_equal(reflect(x, across, down), np.pad(x, padding, mode="reflect"))
    np.testing.assert_array_equal(reflect(x[..., :1, :1], 2, 1), x[..., :1, :1].expand(1, 1, 3, 5))
    np.testing.assert_array_equal(reflect(x[..., :1], 2, 5), reflect(x[..., :1], 0, 5).expand(1, 1, 13, 5))


def test_compile():
    """One graph for every strength and key, without a break, equal to eager in value and gradient."""
    pipe, graphs = AugmentPipe(0.5, "bgcfnc"), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(lambda x, keys: pipe(x, keys=keys), backend=count, fullgraph=True)
    x = torch.randn(3, 3, 8, 9, requires_grad=True)
    for step, p in enumerate((0.5, 0.9, 0.0, 1.0)):
        pipe.p.fill_(p)
        keys = keys_of(3, step)
        a, b = run(x, keys), pipe(x, keys=keys)
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
        gy = torch.randn_like(a)
        ga, gb = (torch.autograd.grad(y, x, gy)[0] for y in (a, b))
        torch.testing.assert_close(ga, gb, atol=1e-4, rtol=0)
    assert len(graphs) == 1
    torch._dynamo.reset()
    whole = torch.compile(pipe, backend="aot_eager", fullgraph=True)
    pipe.p.fill_(0.8)
    assert whole(x).isfinite().all()
    torch.autograd.grad(whole(x).sum(), x)


def test_autocast_changes_nothing():
    x, pipe = torch.randn(3, 3, 8, 8), AugmentPipe(0.8, "bgcfnc")
    expected = pipe(x, keys=keys_of(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pipe(x, keys=keys_of(3)).equal(expected)


def test_state():
    pipe = AugmentPipe(0.25)
    assert list(pipe.state_dict()) == ["p"]
    half = AugmentPipe(0.1).bfloat16()
    assert half.p.dtype == torch.float32
    assert half.bands.equal(pipe.bands)
    assert half.p == torch.tensor(0.1)
    half.load_state_dict(pipe.state_dict())
    assert half.p == 0.25
    assert repr(pipe) == "AugmentPipe(config='bgc')"
    assert "margin=3" in repr(AugmentPipe(0, "bg", 3))
    assert pipe.to("meta").p.is_meta


def test_bad_input():
    x, pipe = torch.randn(2, 3, 4, 4), AugmentPipe(0.5)
    for kwargs, message in [
        ({"x": x.int()}, r"x is torch.int32 \[2, 3, 4, 4\]"),
        ({"x": x[0]}, "expected floating point images"),
        ({"x": None}, "x is NoneType"),
        ({"x": x[:, :2]}, "x has 2 channels, expected 3 or 1"),
        ({"x": x[:, :, :0]}, "expected no empty dimension"),
        ({"x": x.to("meta")}, "x is on meta and the pipe on cpu"),
        ({"x": x, "keys": keys_of(3)}, r"keys is torch.int64 \[3\], expected torch.int64 \[2\]"),
        ({"x": x, "keys": keys_of(2).int()}, "keys is torch.int32"),
        ({"x": x, "keys": [1, 2]}, "keys is list"),
        ({"x": x, "keys": keys_of(2).to("meta")}, "keys is on meta"),
        ({"x": x, "keys": keys_of(2), "generator": torch.Generator()}, "expected one of them"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(**kwargs)
    for kwargs, message in [
        ({"p": 1.5}, "p is 1.5"),
        ({"p": "0"}, "p is '0'"),
        ({"config": "all"}, "config is 'all'"),
        ({"margin": -1}, "margin is -1"),
        ({"margin": 2.0}, "margin is 2.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            AugmentPipe(**kwargs)
    for kwargs, message in [
        ({"hue": 2}, "hue is 2, a factor of p"),
        ({"hue": -1}, "hue is -1"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
        ({"noise": True}, "noise is True"),
    ]:
        with pytest.raises(ValueError, match=message):
            AugmentConfig(**kwargs)
    assert pipe(x[:0]).shape == (0, 3, 4, 4)


def test_wavelets():
    for name, length in (("sym2", 4), ("sym6", 12)):
        taps = WAVELETS[name]
        assert len(taps) == length
        for shift in range(0, length, 2):
            assert abs(taps[shift:] @ taps[: length - shift] - (shift == 0)) < 1e-10
    pytest.importorskip("pywt", reason="PyWavelets, of which the taps are, is not installed")
    assert json.loads(wavelets.PATH.read_text()) == wavelets.taps()
