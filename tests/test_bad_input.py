"""Bad input, for every operator alike: an error that names operator and argument, the same on every backend.

From a good call of each operator follow calls with one argument spoilt. What an operator says of its own special
arguments is in its battery's `bad`.
"""

import contextlib
import re

import pytest
import torch
from torch._subclasses import FakeTensorMode

import gankernels
from gankernels import _backend, ops

R = torch.randn
NAN, INF = float("nan"), float("inf")


def image():
    return R(4, 4, 6, 6)


def taps():
    return torch.tensor([1.0, 3.0, 3.0, 1.0])


ACT = {"act": "lrelu", "alpha": 0.2, "gain": 1.0}
MODULATED = {"x": image(), "weight": R(5, 4, 3, 3), "styles": R(4, 4), "up": 2, "down": 2, "resample_filter": taps()}
RUNNING = {"running_mean": R(4), "running_var": R(4).abs(), "training": False, "momentum": 0.1, "eps": 1e-5}
GOOD = {
    "adain": {"x": image(), "scale": R(4, 4), "shift": R(4, 4), "eps": 1e-5},
    "adain_from": {"content": image(), "style": R(4, 4, 3, 3), "eps": 1e-5},
    "add_noise": {"x": image(), "noise": R(4, 1, 6, 6), "strength": R(4)},
    "affine_grid_sample2d": {"x": image(), "theta": R(4, 2, 3), "size": [3, 3]},
    "batch_norm_act": {
        "x": image(), "weight": R(4), "bias": R(4), "running_mean": R(4), "running_var": R(4).abs(),
        "training": False, "momentum": 0.1, "eps": 1e-5, **ACT,
    },
    "bias_act": {"x": image(), "bias": R(4), **ACT, "clamp": 1.0},
    "conditional_batch_norm": {"x": image(), "scale": R(4, 4), "shift": R(4, 4), **RUNNING, **ACT},
    "conv2d": {
        "x": image(), "weight": R(6, 2, 3, 3), "bias": R(6), "stride": 1, "padding": 1, "dilation": 1, "groups": 2,
    },
    "conv2d_resample": {"x": image(), "w": R(6, 2, 3, 3), "f": taps(), "up": 2, "down": 2, "padding": 1, "groups": 2},
    "conv_transpose2d": {
        "x": image(), "weight": R(4, 3, 3, 3), "bias": R(6), "stride": 1, "padding": 1, "groups": 2, "dilation": 1,
    },
    "downsample2d": {"x": image(), "f": taps(), "down": 2, "gain": 1.0},
    "fade_in": {"image": image(), "lower": R(4, 3, 3, 3), "alpha": 0.3, "weight": R(4, 3), "bias": R(4)},
    "filter2d": {"x": image(), "f": taps(), "gain": 1.0},
    "filtered_lrelu": {
        "x": image(), "fu": taps(), "fd": taps(), "bias": R(4), "up": 2, "down": 2, "padding": 3,
        "gain": 1.0, "slope": 0.2, "clamp": 1.0,
    },
    "gradient_reversal": {"x": image(), "lam": 1.0},
    "grid_sample2d": {"x": image(), "grid": R(4, 3, 3, 2)},
    "instance_norm_act": {"x": image(), "weight": R(4), "bias": R(4), "eps": 1e-5, **ACT},
    "maxout": {"x": image(), "pieces": 2},
    "minibatch_stddev": {"x": image(), "group_size": 2, "num_channels": 1},
    "modulate_act": {"x": image(), "scale": R(4, 4), "bias": R(4), "noise": R(4, 1, 6, 6), **ACT, "clamp": 1.0},
    "modulated_conv2d": {**MODULATED, "padding": 1, "noise": R(1, 1, 6, 6), "input_gain": 1.0},
    "modulated_conv2d_act": {**MODULATED, "padding": 1, "bias": R(5), "input_gain": 1.0, **ACT, "clamp": 1.0},
    "norm_per_sample": {"x": image()},
    "pixel_norm": {"x": image(), "eps": 1e-8},
    "pixel_shuffle_act": {"x": image(), "upscale_factor": 2, "bias": R(4), **ACT, "clamp": 1.0},
    "self_attention2d": {"q": image(), "k": R(4, 4, 3, 3), "v": R(4, 5, 3, 3), "scale": 1.0},
    "setup_filter": {"f": taps(), "gain": 1.0},
    "spade_norm": {"x": image(), "scale": image(), "shift": image(), **RUNNING, **ACT},
    "sum_squares_per_sample": {"x": image()},
    "upfirdn2d": {"x": image(), "filter": taps(), "up": 2, "down": 2, "padding": 1, "gain": 1.0},
    "upsample2d": {"x": image(), "f": taps(), "up": 2, "gain": 1.0},
}  # fmt: skip
ELSEWHERE = {"spectral_norm"}  # lists of tensors: its battery spoils them

ANY_SHAPE = {"gradient_reversal", "norm_per_sample", "sum_squares_per_sample"}  # no channels, any rank but for none
FEWER = {(name, "x") for name in ANY_SHAPE | {"maxout", "pixel_norm"}}  # dimensions that are welcome too
FEWER |= {(name, "noise") for name in ("modulate_act", "modulated_conv2d")}
FEWER |= {("add_noise", "strength"), ("setup_filter", "f")}
MORE = {(name, "x") for name in ANY_SHAPE | {"bias_act", "batch_norm_act", "instance_norm_act", "maxout", "pixel_norm"}}
FILTERS = {"f", "filter", "fu", "fd", "resample_filter"}
IMAGES = {"x", "image", "lower", "content", "style", "q", "k", "v"}
PAIRS = {"up", "down", "stride", "dilation"}
FACTORS = {"up", "down", "stride", "dilation", "groups", "pieces", "upscale_factor", "group_size", "num_channels"}
RUNNING_CHANNELS = {"running_mean": 0, "running_var": 0}
CHANNELS = {  # where an argument has one channel too many, what the message names
    "adain": {"scale": 1, "shift": 1},
    "adain_from": {"style": 1},
    "add_noise": {"strength": 0},
    "batch_norm_act": {"weight": 0, "bias": 0, **RUNNING_CHANNELS},
    "bias_act": {"bias": 0},
    "conditional_batch_norm": {"scale": 1, "shift": 1, **RUNNING_CHANNELS},
    "conv2d": {"x": 1, "weight": 1, "bias": 0},
    "conv2d_resample": {"x": 1, "w": 1},
    "conv_transpose2d": {"x": 1, "weight": 0, "bias": 0},
    "fade_in": {"bias": 0, "weight": 1},
    "filtered_lrelu": {"bias": 0},
    "grid_sample2d": {"grid": 3},
    "instance_norm_act": {"weight": 0, "bias": 0},
    "maxout": {"x": 1},
    "modulate_act": {"scale": 1, "bias": 0, "noise": 1},
    "modulated_conv2d": {"x": 1, "weight": 1, "styles": 1, "noise": 1},
    "modulated_conv2d_act": {"x": 1, "weight": 1, "styles": 1, "bias": 0},
    "pixel_shuffle_act": {"x": 1, "bias": 0},
    "self_attention2d": {"q": 1, "k": 1},
    "spade_norm": {"scale": 1, "shift": 1, **RUNNING_CHANNELS},
}
BIG = 2**20
OTHERS = {  # what only some operators have
    "a filter larger than the padded image": [
        ("conv2d", {"weight": R(6, 2, 9, 9)}, "weight is"),
        ("conv2d_resample", {"w": R(6, 2, 30, 30)}, "weight of"),
        ("conv_transpose2d", {"padding": 9}, "padding"),
        ("downsample2d", {"f": R(30), "padding": -20}, "filter of"),
        ("filter2d", {"f": R(30), "padding": -20}, "filter of"),
        ("upsample2d", {"f": R(30), "padding": -20}, "filter of"),
        ("filtered_lrelu", {"fu": R(30)}, "fu has"),
        ("filtered_lrelu", {"fd": R(30)}, "fd has"),
        ("modulated_conv2d", {"weight": R(5, 4, 30, 30)}, "weight of"),
        ("modulated_conv2d_act", {"weight": R(5, 4, 30, 30)}, "weight of"),
        ("upfirdn2d", {"filter": R(30)}, "filter of"),
    ],
    "a group size that does not divide": [
        ("conv2d", {"groups": 4}, "groups is 4"),
        ("conv2d_resample", {"groups": 4}, "groups is 4"),
        ("conv_transpose2d", {"groups": 3}, "groups is 3"),
        ("maxout", {"pieces": 3}, "pieces = 3"),
        ("minibatch_stddev", {"group_size": 3}, "group_size is 3"),
        ("minibatch_stddev", {"num_channels": 3}, "num_channels = 3"),
        ("pixel_shuffle_act", {"upscale_factor": 3}, "x has 4 channels"),
    ],
    "images of 2^31 pixels and more": [
        ("affine_grid_sample2d", {"size": [BIG, BIG]}, "2^31 pixels"),
        ("conv2d", {"padding": BIG}, "2^31 pixels"),
        ("conv2d_resample", {"up": BIG}, "2^31 pixels"),
        ("conv_transpose2d", {"stride": BIG}, "2^31 pixels"),
        ("filter2d", {"padding": BIG}, "2^31 pixels"),
        ("filtered_lrelu", {"up": BIG}, "2^31 pixels"),
        ("modulated_conv2d", {"up": BIG}, "2^31 pixels"),
        ("modulated_conv2d_act", {"padding": BIG}, "2^31 pixels"),
        ("upfirdn2d", {"up": BIG}, "2^31 pixels"),
        ("upsample2d", {"up": BIG}, "2^31 pixels"),
        ("grid_sample2d", {"x": R(1, 1, 1, 1).expand(4, 1, 2**16, 2**15)}, "2^31 pixels"),
        ("downsample2d", {"x": R(1, 1, 1, 1).expand(4, 1, 2**17, 2**17)}, "2^31 pixels"),
    ],
}


def test_every_operator_is_here():
    assert set(GOOD) | ELSEWHERE == set(ops.__all__)


def spoilt(kind, name, good):
    """(changed arguments, what the message must name)."""
    tensors = {k: v for k, v in good.items() if isinstance(v, torch.Tensor)}
    first = next(iter(tensors))
    for k, v in good.items():
        if kind == "rank" and k in tensors:
            lower, higher = v[0], v[None, None, None] if k in FILTERS else v[None]
            if (name, k) not in FEWER:
                yield {k: lower}, k
            if (name, k) not in MORE:
                yield {k: higher}, k
            if name != "setup_filter":
                yield {k: v.tolist()}, k
        elif kind == "dtype of no floating point" and k in tensors and name != "setup_filter":
            yield from (({k: v.to(t)}, k) for t in (torch.int32, torch.uint8, torch.bool, torch.complex64))
        elif kind == "mixed dtypes" and k in tensors and k != first:
            yield {k: v.double()}, k
            yield {k: v.half()}, k
        elif kind == "mixed devices" and k in tensors and k != first:
            yield {k: v.to("meta")}, k
        elif kind == "channels that do not match" and k in CHANNELS.get(name, {}):
            dim = CHANNELS[name][k]
            yield {k: torch.cat([v, v.narrow(dim, 0, 1)], dim)}, k
        elif kind == "no channels" and k in IMAGES and name not in ANY_SHAPE:
            yield {k: v[:, :0]}, k
        elif kind == "numbers that are not finite" and isinstance(v, float):
            yield from (({k: bad}, k) for bad in (NAN, INF, -INF, "1", True))
        elif kind == "factors" and k in FACTORS:
            yield from (({k: bad}, k) for bad in (0, -1, 1.5, "2", True))
            if k in PAIRS:
                yield from (({k: bad}, k) for bad in ([2, -1], [0, 1], [1, 1.5], [1, 2, 3]))
    for op, change, message in OTHERS.get(kind, ()):
        if op == name:
            yield change, message


KINDS = [
    "rank", "dtype of no floating point", "mixed dtypes", "mixed devices", "channels that do not match", "no channels",
    "numbers that are not finite", "factors", *OTHERS,
]  # fmt: skip
CELLS = [(name, kind) for name in GOOD for kind in KINDS if next(spoilt(kind, name, GOOD[name]), None)]


def has(name):
    """The backends of an operator or a helper of upfirdn2d."""
    return _backend.operators().get(name, _backend.operators()["upfirdn2d"])


def test_every_kind_is_of_use():
    assert {kind for _, kind in CELLS} == set(KINDS)


@pytest.mark.parametrize("name", GOOD)
def test_the_good_call_is_good(name):
    assert getattr(ops, name)(**GOOD[name]).numel()


@pytest.mark.parametrize(("name", "kind"), CELLS, ids=lambda v: v.replace(" ", "_"))
def test_bad_input(name, kind, monkeypatch):
    backends = ["automatic", *has(name)]
    monkeypatch.setattr(_backend, "emulated", {"triton", "cuda"})  # no kernel runs: the checks come first
    for change, named in spoilt(kind, name, GOOD[name]):
        texts = {}
        for backend in backends:
            forced = contextlib.nullcontext() if backend == "automatic" else gankernels.backend(backend)
            with forced, pytest.raises(ValueError) as caught:
                getattr(ops, name)(**GOOD[name] | change)
            texts[backend] = str(caught.value)
        text = texts["automatic"]
        assert set(texts.values()) == {text}, texts
        assert text.startswith(f"{name}: "), text
        assert re.search(rf"\b{re.escape(named)}", text), text
        assert re.search(r"expected|pad more|would be", text), text


WHOLE = (64, 256, 512, 512)
HUGE = {  # more than 2^31 elements in all, which is no error: operator, its call
    "adain": {"x": WHOLE, "scale": (64, 256), "shift": (64, 256)},
    "adain_from": {"content": WHOLE, "style": (64, 256, 8, 8)},
    "add_noise": {"x": WHOLE, "noise": (64, 1, 512, 512), "strength": (256,)},
    "batch_norm_act": {
        "x": WHOLE, "weight": (256,), "bias": (256,), "running_mean": (256,), "running_var": (256,), "training": True
    },
    "conditional_batch_norm": {
        "x": WHOLE, "scale": (64, 256), "shift": (64, 256), "running_mean": None, "running_var": None, "training": True
    },
    "conv2d_resample": {"x": (64, 256, 256, 256), "w": (256, 256, 3, 3), "f": (4,), "up": 2, "padding": 1},
    "conv_transpose2d": {"x": (64, 64, 256, 256), "weight": (64, 256, 2, 2), "stride": 2},
    "fade_in": {"image": WHOLE, "lower": (64, 256, 256, 256), "alpha": 0.5},
    "gradient_reversal": {"x": WHOLE},
    "grid_sample2d": {"x": WHOLE, "grid": (64, 512, 512, 2)},
    "instance_norm_act": {"x": WHOLE, "weight": (256,), "bias": (256,)},
    "maxout": {"x": (64, 512, 512, 512), "pieces": 2},
    "modulate_act": {"x": WHOLE, "scale": (64, 256), "bias": (256,), "noise": (64, 1, 512, 512)},
    "modulated_conv2d_act": {"x": WHOLE, "weight": (256, 256, 1, 1), "styles": (64, 256), "bias": (256,)},
    "pixel_shuffle_act": {"x": (64, 1024, 256, 256), "upscale_factor": 2},
    "spade_norm": {"x": WHOLE, "scale": WHOLE, "shift": WHOLE, "training": True},
    "bias_act": {"x": WHOLE, "bias": (256,)},
    "conv2d": {"x": (64, 64, 512, 512), "weight": (128, 64, 3, 3), "padding": 1},
    "minibatch_stddev": {"x": (64, 256, 512, 512)},
    "modulated_conv2d": {
        "x": (64, 128, 256, 256),
        "weight": (128, 128, 3, 3),
        "styles": (64, 128),
        "up": 2,
        "padding": 1,
    },
    "pixel_norm": {"x": (64, 256, 512, 512)},
    "upsample2d": {"x": (64, 256, 256, 256), "f": (4,)},
    "filtered_lrelu": {"x": (64, 256, 256, 256), "fu": (4,), "up": 2, "padding": 2},
}  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("name", HUGE)
def test_many_images_are_no_error(name, backend, monkeypatch):
    """Shapes alone: how the kernels count is tested with them."""
    if backend not in has(name):
        pytest.skip(f"{name} has no {backend} kernel")
    monkeypatch.setattr(_backend, "emulated", {"triton"})
    with FakeTensorMode(), gankernels.backend(backend):
        y = getattr(ops, name)(**{k: torch.empty(v) if isinstance(v, tuple) else v for k, v in HUGE[name].items()})
    assert y.numel() >= 2**31
