"""Whole networks against numbers that must not move: our own, and the published ones where GANKERNELS_GOLDEN is set."""

import importlib
import json
import os
import pathlib

import numpy as np
import pytest
import torch
from gankernels.models import stylegan2
from golden_networks import CASES, FILE, numbers

import gankernels
from gankernels import losses

FOLDER = os.environ.get("GANKERNELS_GOLDEN", "")
PUBLISHED = sorted(pathlib.Path(FOLDER).glob("stylegan*.npz")) if FOLDER else []


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_kept_numbers(case, backend):
    kept = np.load(FILE)
    with gankernels.backend(backend):
        found = numbers(case)
    assert set(found) == {k for k in kept.files if k.startswith(f"{case}/")}
    for key, value in found.items():
        scale = np.abs(kept[key]).max()
        assert scale > 1e-6, key  # a number that is there
        np.testing.assert_allclose(value, kept[key], rtol=0, atol=1e-7 * scale, err_msg=key)


def test_the_published_folder_is_there():
    if not FOLDER:
        pytest.skip("GANKERNELS_GOLDEN names no folder of published numbers")
    assert PUBLISHED, f"GANKERNELS_GOLDEN={FOLDER} holds no stylegan*.npz"


def published(path):
    d = np.load(path)
    spec = json.loads(str(d["spec"]))
    module = importlib.import_module(f"gankernels.models.{spec['family']}")
    part = {"G": "Generator", "D": "Discriminator"}[path.stem[-1]]
    net = getattr(module, part)(**spec[part.lower()])
    filters = {k: v.clone() for k, v in net.state_dict().items() if k.endswith("filter")}
    kept = {k[6:]: torch.from_numpy(d[k].copy()) for k in d.files if k.startswith("param.")}
    net.load_state_dict(kept)
    for name, ours in filters.items():  # which the published file would otherwise hide
        torch.testing.assert_close(ours, kept[name], rtol=0, atol=1e-7)
    return net.eval(), d, spec


def close(found, d, key, rtol, floor=1e-9):
    scale = max(np.abs(d[key]).max(), floor)
    np.testing.assert_allclose(
        found.detach().numpy() + np.zeros_like(d[key]), d[key], rtol=0, atol=rtol * scale, err_msg=key
    )


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("path", [p for p in PUBLISHED if p.stem.endswith("G")], ids=lambda p: p.stem)
def test_published_generator(path, backend):
    net, d, spec = published(path)
    psi, call = spec["truncation_psi"], {"noise_mode": "const"} if spec["family"] == "stylegan2" else {}
    z, c, noise = (torch.from_numpy(d[k].copy()) for k in ("z", "c", "pl_noise"))
    with gankernels.backend(backend):
        ws = net.mapping(z, c)
        close(ws, d, "ws", 1e-5)
        close(net.mapping(z, c, truncation_psi=psi, truncation_cutoff=2), d, "ws_truncated", 1e-5)
        close(net.synthesis(ws, **call), d, "img", 1e-4)
        close(net(z, c, truncation_psi=psi, **call), d, "img_truncated", 1e-4)
        scale = np.sqrt(np.prod(noise.shape[2:]))  # the penalty divides by it, the published lengths do not
        penalty = losses.path_length(
            lambda w: net.synthesis(w, **call), ws, torch.zeros(1), 1.0, 0.0, noise=noise * scale
        )
        close(penalty, {"mean": np.square(d["pl_lengths"]).mean()}, "mean", 1e-4)
        keys = [k for k in d.files if k.startswith("plgrad.")]
        parameters = dict(net.named_parameters())
        grads = torch.autograd.grad(penalty, [parameters[k[7:]] for k in keys])
        for key, grad in zip(keys, grads, strict=True):
            close(grad, d, key, 5e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("path", [p for p in PUBLISHED if p.stem.endswith("D")], ids=lambda p: p.stem)
def test_published_discriminator(path, backend):
    net, d, _ = published(path)
    images, c = (torch.from_numpy(d[k].copy()) for k in ("img", "c"))
    with gankernels.backend(backend):
        close(net(images, c), d, "logits", 1e-4)
        assert isinstance(net, stylegan2.Discriminator)
        penalty = losses.r1_penalty(net, images, 2.0, c)
        close(penalty, {"mean": d["r1"].mean()}, "mean", 1e-4)
        keys = [k for k in d.files if k.startswith("r1grad.")]
        parameters = dict(net.named_parameters())
        grads = torch.autograd.grad(penalty, [parameters[k[7:]] for k in keys], allow_unused=True)
        largest = max(np.abs(d[k]).max() for k in keys)
        for key, grad in zip(keys, grads, strict=True):
            # Their float32 is off float64 by up to 1.2e-3 behind the minibatch deviation, ours by 5e-5.
            close(torch.zeros(()) if grad is None else grad, d, key, 3e-3, 1e-4 * largest)
