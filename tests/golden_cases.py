"""Small float64 numbers of the operators, kept in tests/golden.npz: `python tests/golden_cases.py` writes them anew.

They were written by the reference backend once it agreed with the published implementations' numbers, so that a later
change of the reference cannot pass unseen. Per case: inputs, result, cotangent, first and second order gradients.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch

import gankernels
from gankernels import ops

FILE = pathlib.Path(__file__).parent / "golden.npz"


def _draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _cases():
    """name: (function of tensors, {argument: tensor})."""
    x = _draw(2, 3, 5, 4)
    for i, (act, clamp) in enumerate(
        [("lrelu", None), ("swish", 1.0), ("tanh", None), ("elu", 0.8), ("softplus", None)]
    ):
        yield (
            f"bias_act_{act}",
            lambda x, b, act=act, clamp=clamp: ops.bias_act(x, b, act=act, clamp=clamp),
            {"x": x, "b": _draw(3, seed=i + 1)},
        )
    f, f2 = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, _draw(3, 2, seed=9).float()
    for name, kwargs in {
        "up": {"up": 2, "padding": [2, 1, 2, 1], "gain": 4},
        "down": {"down": 2, "padding": 1},
        "both": {"up": [2, 3], "down": [3, 1], "padding": [3, -1, 2, 2], "flip_filter": True, "gain": -1.5},
    }.items():
        yield f"upfirdn2d_{name}", lambda x, kwargs=kwargs: ops.upfirdn2d(x, f, **kwargs), {"x": x}
        yield f"upfirdn2d_{name}_full", lambda x, kwargs=kwargs: ops.upfirdn2d(x, f2, **kwargs), {"x": x}
    yield "filter2d", lambda x: ops.filter2d(x, f), {"x": x}
    yield "upsample2d", lambda x: ops.upsample2d(x, f), {"x": x}
    yield "downsample2d", lambda x: ops.downsample2d(x, f), {"x": x}
    f6 = _draw(6, seed=11).float()
    for name, fd, kwargs in (
        ("separable", f6, {"up": 2, "down": 2, "padding": [5, 4, 5, 6]}),
        ("full", f2, {"up": 4, "down": 3, "padding": 4, "gain": 1.2, "slope": 0.1, "clamp": 0.8, "flip_filter": True}),
        ("up", None, {"up": [2, 1], "padding": [3, 3, 4, 3], "slope": -0.5}),
    ):
        yield (
            f"filtered_lrelu_{name}",
            lambda x, b, fd=fd, kwargs=kwargs: ops.filtered_lrelu(x, f6, fd, b, **kwargs),
            {"x": x, "b": _draw(3, seed=12)},
        )
    w = _draw(4, 3, 3, 3, seed=5)
    yield "conv2d", lambda x, w: ops.conv2d(x, w, stride=2, padding=1), {"x": x, "w": w}
    yield (
        "conv_transpose2d",
        lambda x, w, b: ops.conv_transpose2d(x, w, b, stride=2, padding=1),
        {"x": x, "w": _draw(3, 4, 4, 4, seed=6), "b": _draw(4, seed=7)},
    )
    yield (
        "batch_norm_act",
        lambda x, w, b: ops.batch_norm_act(x, w, b, None, None, training=True, act="lrelu"),
        {"x": x, "w": _draw(3, seed=8), "b": _draw(3, seed=9)},
    )
    y = _draw(6, 4, 3, 2, seed=10)
    yield "minibatch_stddev", lambda x: ops.minibatch_stddev(x, 3, 2), {"x": y}
    yield "minibatch_stddev_whole", lambda x: ops.minibatch_stddev(x, None), {"x": y}
    yield "pixel_norm", lambda x: ops.pixel_norm(x), {"x": x}
    yield "maxout", lambda x: ops.maxout(x, 2), {"x": y}
    yield (
        "add_noise",
        lambda x, noise, strength: ops.add_noise(x, noise, strength),
        {"x": x, "noise": _draw(2, 1, 5, 4, seed=11), "strength": _draw(3, seed=12)},
    )
    yield (
        "fade_in",
        lambda image, lower, w, b: ops.fade_in(image, lower, 0.3, w, b),
        {"image": y, "lower": _draw(6, 5, 3, 2, seed=13), "w": _draw(4, 5, 1, 1, seed=14), "b": _draw(4, seed=15)},
    )
    yield (
        "pixel_shuffle_act",
        lambda x, b: ops.pixel_shuffle_act(x, 2, b, act="swish"),
        {"x": y, "b": _draw(4, seed=15)},
    )
    styles, noise = _draw(2, 3, seed=10), _draw(5, 4, seed=11)
    for name, kwargs in {
        "up": {"up": 2, "padding": 1},
        "down": {"down": 2, "padding": 1, "flip_weight": False},
        "both": {"up": 2, "down": [3, 2], "padding": [1, 2, 0, 1], "flip_filter": True},
    }.items():
        yield (
            f"conv2d_resample_{name}",
            lambda x, w, kwargs=kwargs: ops.conv2d_resample(x, w, f2, **kwargs),
            {"x": x, "w": w},
        )
    for name, kwargs in {
        "plain": {"padding": 1},
        "up": {"up": 2, "padding": 1, "flip_weight": False, "resample_filter": f},
        "stylegan3": {"padding": 2, "prenormalize": True, "input_gain": 0.7},
        "bare": {"padding": 1, "demodulate": False},
    }.items():
        yield (
            f"modulated_conv2d_{name}",
            lambda x, w, s, kwargs=kwargs: ops.modulated_conv2d(x, w, s, **kwargs),
            {"x": x, "w": w, "s": styles},
        )
    yield (
        "modulated_conv2d_act",
        lambda x, w, s, b, noise: ops.modulated_conv2d_act(x, w, s, b, noise=noise, padding=1, act="swish", clamp=2.0),
        {"x": x, "w": w, "s": styles, "b": _draw(4, seed=12), "noise": noise},
    )
    yield (
        "modulate_act",
        lambda x, s, noise: ops.modulate_act(x, s, noise=noise, act="lrelu"),
        {"x": x, "s": styles, "noise": noise},
    )


CASES = {name: (f, tensors) for name, f, tensors in _cases()}


def numbers(name: str, case: tuple | None = None) -> dict[str, np.ndarray]:
    """Result and derivatives of a case, or of another function in its place, on the backend in force."""
    f, tensors = CASES[name] if case is None else case
    leaves = {k: t.clone().requires_grad_() for k, t in tensors.items()}
    y = f(**leaves)
    gy = _draw(*y.shape, seed=99).requires_grad_()
    first = torch.autograd.grad(y, list(leaves.values()), gy, create_graph=True)
    total = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(total, [*leaves.values(), gy], allow_unused=True, materialize_grads=True)
    found = {"y": y, **{f"grad.{k}": g for k, g in zip(leaves, first, strict=True)}}
    found |= {f"gradgrad.{k}": g for k, g in zip([*leaves, "gy"], second, strict=True)}
    return {f"{name}/{k}": v.detach().numpy() for k, v in found.items()}


def check_kept(name: str, case: tuple | None = None) -> None:
    """Fails where `numbers` are not the kept ones."""
    kept = np.load(FILE)
    found = numbers(name, case)
    assert set(found) == {k for k in kept.files if k.startswith(f"{name}/")}
    for key, value in found.items():
        scale = max(np.abs(kept[key]).max(), 1)
        np.testing.assert_allclose(value, kept[key], rtol=1e-9, atol=1e-9 * scale, err_msg=key)


def main() -> None:
    with gankernels.backend("reference"):
        kept = {k: v for name in CASES for k, v in numbers(name).items()}
    np.savez_compressed(FILE, **kept)
    print(f"{FILE}: {len(CASES)} cases, {len(kept)} arrays")


if __name__ == "__main__":
    main()
