"""Existing StyleGAN code on these operators: small repositories with traps for operators, run as they are."""

import importlib
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

from gankernels import compat

HERE = pathlib.Path(__file__).resolve().parent
TRAP = 'raise RuntimeError("this operator is compiled with nvcc")\n'
MARK = 'mark = "the user\'s"\n'
MODULES = ["bias_act", "upfirdn2d", "filtered_lrelu", "conv2d_resample", "conv2d_gradfix", "grid_sample_gradfix", "fma"]
REPOSITORIES = {
    "stylegan3": {
        "torch_utils/__init__.py": "",
        "torch_utils/misc.py": MARK,
        "torch_utils/ops/__init__.py": "",
        "torch_utils/ops/mine.py": MARK,
        **{f"torch_utils/ops/{name}.py": TRAP for name in MODULES},
    },
    "stylegan2-op": {
        "op/__init__.py": "from .fused_act import FusedLeakyReLU\n",
        "op/fused_act.py": TRAP,
        "op/upfirdn2d.py": TRAP,
        "op/conv2d_gradfix.py": TRAP,
        "op/mine.py": MARK,
    },
}


@pytest.fixture(params=REPOSITORIES)
def repository(request, tmp_path):
    """(its name, its folder), a train.py and the modules it imports."""
    for file, text in REPOSITORIES[request.param].items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    shutil.copy(HERE / f"compat_{request.param.replace('-', '_')}.py", tmp_path / "train.py")
    return request.param, tmp_path


def run(folder, *command):
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)


def test_the_repository_runs_unchanged(repository):
    name, folder = repository
    assert "compiled with nvcc" in run(folder, "train.py", str(HERE)).stderr, "the trap does not snap"
    out = run(folder, "-m", "gankernels.compat", name, "train.py", str(HERE))
    assert out.stdout.strip() == "unchanged", out.stderr


def test_the_runner_says_how_it_is_used(tmp_path):
    assert "python -m gankernels.compat" in run(tmp_path, "-m", "gankernels.compat").stderr
    assert "expected one of stylegan3, stylegan2-op" in run(tmp_path, "-m", "gankernels.compat", "gan", "x.py").stderr


@pytest.fixture
def path_of(repository, monkeypatch):
    name, folder = repository
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    yield name
    for module in set(sys.modules) - before:
        del sys.modules[module]
    compat._installed.clear()


def test_install_twice_and_uninstall(path_of):
    module = {"stylegan3": "torch_utils.ops.bias_act", "stylegan2-op": "op"}[path_of]
    finders = list(sys.meta_path)
    compat.install(path_of)
    once = list(sys.meta_path)
    compat.install(path_of)
    assert sys.meta_path == once
    ours = importlib.import_module(module)
    compat.install(path_of)
    assert importlib.import_module(module) is ours
    compat.uninstall(path_of)
    assert sys.meta_path == finders
    with pytest.raises(RuntimeError, match="compiled with nvcc"):
        importlib.import_module(module)
    with pytest.raises(RuntimeError, match="is not installed"):
        compat.uninstall(path_of)
    compat.install(path_of)
    assert "gankernels" in importlib.import_module(module).__file__


def test_too_late_is_an_error_that_says_what_to_do(path_of, monkeypatch):
    module = {"stylegan3": "torch_utils.ops.fma", "stylegan2-op": "op.fused_act"}[path_of]
    monkeypatch.setitem(sys.modules, module, torch)
    with pytest.raises(RuntimeError, match=f"{module} is imported already.*call install at the top of the script"):
        compat.install(path_of)
    assert not compat._installed


def test_another_package_and_no_package_at_all(tmp_path, monkeypatch, path_of):
    """Code that keeps its operators elsewhere, and code of which only the networks are at hand."""
    package = "somewhere.else.ops"
    compat.install(path_of, package)
    stem = {"stylegan3": "fma", "stylegan2-op": "upfirdn2d"}[path_of]
    found = importlib.import_module(f"{package}.{stem}")
    assert "gankernels" in found.__file__
    assert found.__name__ == f"{package}.{stem}"
    compat.uninstall(path_of, package)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{package}.{stem}")
    assert not [m for m in sys.modules if m.startswith("somewhere")]


def test_unknown_name():
    for f in (compat.install, compat.uninstall):
        with pytest.raises(ValueError, match="name is 'stylegan4', expected one of stylegan3, stylegan2-op"):
            f("stylegan4")
