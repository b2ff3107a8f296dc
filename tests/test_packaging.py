"""What is installed, and from where: the package list equals the tree, wheels hold no tests, the house is in order."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

from gankernels import _backend

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_tree():
    folders = {p.parent for p in (ROOT / "gankernels").rglob("*.py")} | {ROOT / "models"}
    return {str(p.relative_to(ROOT)).replace(os.sep, ".").replace("models", "gankernels.models") for p in folders}


def test_the_package_list_is_the_tree():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_tree()


def test_every_package_imports():
    for name in PROJECT["tool"]["setuptools"]["packages"]:
        importlib.import_module(name)


def test_models_folder_refuses_another_name():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import models"
    out = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True)
    assert out.returncode == 1
    assert "import gankernels.models" in out.stderr


def test_import_needs_nothing_but_torch_and_numpy():
    code = """
import sys
sys.modules |= dict.fromkeys(["triton", "rich", "tyro", "PIL", "safetensors", "matplotlib", "cupy"])
import torch, gankernels.ops
y = gankernels.ops.bias_act(torch.ones(1, 2, 3, 3), torch.ones(2), act="lrelu")
assert y.shape == (1, 2, 3, 3)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reference_without_the_extension_warns_once():
    code = """
import sys, warnings
sys.modules["gankernels._C"] = None
import torch, gankernels
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        y = gankernels.ops.bias_act(torch.ones(1, 2, 3, 3), act="lrelu")
assert len([w for w in seen if "on the reference backend, plain PyTorch" in str(w.message)]) == 1
try:
    with gankernels.backend("cpu"):
        gankernels.ops.bias_act(torch.ones(1, 2))
except RuntimeError as error:
    assert "is not built" in str(error)
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_top_level_is_the_house():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    house = {"csrc", "gankernels", "models", "tests", "benchmarks", "docs", "setup.py", "pyproject.toml", "Makefile"}
    house |= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE", ".pre-commit-config.yaml", ".ci"}
    house |= {".gitignore"}
    assert top == house


def test_every_operator_has_its_files():
    without_kernels = {_backend.home(op) for op in _backend.compounds}
    for path in (ROOT / "gankernels" / "ops").glob("*.py"):
        stem = path.stem
        if stem.startswith("_") or stem.endswith("_op"):
            continue
        others = [f"tests/test_{stem}.py", f"benchmarks/bench_{stem}.py"]
        for other in others if stem in without_kernels else [*others, f"csrc/cpu/{stem}.cpp"]:
            assert (ROOT / other).exists(), f"{stem} has no {other}"


def test_the_table_of_the_benchmarks_is_made():
    """Of one operator; what the others would measure is listed."""
    folder = ROOT / "benchmarks"
    options = ["--only", "gradient_reversal", "--seconds", "0.001", "--compile", "none"]
    done = subprocess.run([sys.executable, "table.py", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| gradient_reversal ") == 6  # two shapes in three orders
    listed = subprocess.run(
        [sys.executable, "-c", "import table; print(*sorted({c.label.split()[0] for c in table.cases([])}))"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert {"bias_act", "modulated_conv2d", "upfirdn2d"} <= set(listed.stdout.split()), listed.stderr


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """An sdist, and a wheel made without compiled kernels: what they hold is the question here."""
    out = tmp_path_factory.mktemp("dist")
    for kind in ("--sdist", "--wheel"):
        command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(out), str(ROOT)]
        environment = {**os.environ, "GANKERNELS_EXTENSION": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_the_sdist_builds_and_holds_the_sources(distributions):
    with tarfile.open(distributions[0]) as sdist:
        names = {n.split("/", 1)[-1] for n in sdist.getnames()}
    tracked = subprocess.run(["git", "ls-files", "csrc"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert tracked
    for name in [
        *tracked,
        "setup.py",
        "LICENSE",
        "NOTICE",
        "models/dcgan.py",
        "gankernels/py.typed",
    ]:
        assert name in names, f"the sdist lacks {name}"


def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    names = zipfile.ZipFile(distributions[1]).namelist()
    tops = {n.split("/")[0].split("-")[0] for n in names}
    assert tops == {"gankernels"}
    for name in ("gankernels/py.typed", "gankernels/models/dcgan.py", "gankernels/ops/bias_act.py"):
        assert name in names
    assert any(n.startswith("gankernels/data/bundled/fashion-mnist/") for n in names)
    assert any(n.startswith("gankernels/data/bundled/emoji/") for n in names)
    assert "gankernels/_csrc/cuda/bias_act.cuh" in names
    assert not [n for n in names if n.endswith((".cpp", ".cu")) or "/_csrc/cpu/" in n]
    carried = {n.rpartition("/")[2] for n in names if n.startswith("gankernels/_tests/")}
    operators = {p.name for p in (ROOT / "gankernels" / "ops").glob("[!_]*.py") if not p.stem.endswith("_op")}
    assert carried == {
        "cells.py",
        "conftest.py",
        "compile_tests.py",
        "export_tests.py",
        "op_samples.py",
        "op_tests.py",
        *(f"test_{name}" for name in operators),
    }
    assert "gankernels/_benchmarks/bench_tools.py" in names
    others = [n for n in names if not n.startswith("gankernels/_tests/")]
    assert not [n for n in others if "test" in pathlib.PurePath(n).name.split(".")[0].split("_")]


def test_the_wheel_finds_what_it_carries(distributions, tmp_path):
    """Away from the checkout: CUDA's sources, and the operators' tests, which run there."""
    pytest.importorskip("tyro")
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    found = run("-c", "from gankernels import _nvrtc; print(_nvrtc.sources())")
    assert found.stdout.strip() == str(tmp_path / "site" / "gankernels" / "_csrc"), found.stderr
    done = run("-m", "gankernels", "selftest", "--quick", "--only", "bias_act", "--no-benchmarks")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "selftest.json").read_text())["checks"]
    assert {c["outcome"] for c in checks if c["backend"] == "reference"} == {"passed", "skipped"}
