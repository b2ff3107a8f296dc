"""Numbers that must not move: our own, kept here, and a folder of published ones where GANKERNELS_GOLDEN names it."""

import json
import os
import pathlib

import numpy as np
import pytest
import torch
from golden_cases import CASES, check_kept

import gankernels
from gankernels import ops

FOLDER = os.environ.get("GANKERNELS_GOLDEN", "")
PUBLISHED = sorted(pathlib.Path(FOLDER).glob("[!s]*.npz")) if FOLDER else []  # stylegan*: see test_models_golden.py


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_kept_numbers(name, backend):
    with gankernels.backend(backend):
        check_kept(name)


def test_the_published_folder_is_there():
    if not FOLDER:
        pytest.skip("GANKERNELS_GOLDEN names no folder of published numbers")
    assert PUBLISHED, f"GANKERNELS_GOLDEN={FOLDER} holds no .npz"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_published_numbers(path, backend):
    d = np.load(path)
    spec = json.loads(str(d["spec"]))
    op = spec.get("op")
    if not hasattr(ops, str(op)):
        pytest.skip(f"{op} is not built yet")
    names = [k for k in ("x", "fu", "fd", "b", "w", "s", "f", "noise") if k in d]
    inputs = {k: torch.from_numpy(d[k].copy()).requires_grad_(k in "xbws") for k in names}
    leaves = [t for t in inputs.values() if t.requires_grad]
    by_name = {"modulated": ("f", "noise"), "filtered": ("fu", "fd")}.get(op.split("_")[0], ())
    named = {k: inputs.pop(k) for k in by_name if k in inputs}
    if op == "filtered_lrelu":
        named["bias"] = inputs.pop("b")
    if "f" in named:
        named["resample_filter"] = named.pop("f")
    with gankernels.backend(backend):
        y = getattr(ops, op)(*inputs.values(), **named, **spec["kwargs"])
        gy = torch.from_numpy(d["gy"].copy()).requires_grad_()
        first = torch.autograd.grad(y, leaves, gy, create_graph=True)
        total = sum(g.square().sum() for g in first)
        second = torch.autograd.grad(total, [*leaves, gy], allow_unused=True, materialize_grads=True)
    found = {"y": y} | {f"grad{i}": g for i, g in enumerate(first)} | {f"gradgrad{i}": g for i, g in enumerate(second)}
    for key, value in found.items():
        if key in d:
            scale = max(np.abs(d[key]).max(), 1e-9)
            np.testing.assert_allclose(value.detach().numpy(), d[key], rtol=0, atol=1e-6 * scale, err_msg=key)
