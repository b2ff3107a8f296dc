"""What is installed, and from where: the package list equals the tree, wheels hold no tests, the house is in order."""

import importlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

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
    for path in (ROOT / "gankernels" / "ops").glob("*.py"):
        stem = path.stem
        if stem.startswith("_") or stem.endswith("_op"):
            continue
        kernels = [] if stem == "composites" else [f"csrc/cpu/{stem}.cpp"]
        for other in (f"tests/test_{stem}.py", f"benchmarks/bench_{stem}.py", *kernels):
            assert (ROOT / other).exists(), f"{stem} has no {other}"


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
    assert not [n for n in names if "test" in pathlib.PurePath(n).name.split(".")[0].split("_")]
