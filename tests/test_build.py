"""setup.py says in one sentence what it cannot do, and each compiled copy of the CPU loops computes the same."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

from gankernels import _C

ROOT = pathlib.Path(__file__).resolve().parent.parent


def setup(code="", **environment):
    """Runs setup.py as far as its metadata, after `code`."""
    run = (
        f"{code}\nimport runpy, sys; sys.argv = ['setup.py', '--name']; runpy.run_path('setup.py', run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GANKERNELS_")} | environment
    return subprocess.run([sys.executable, "-c", run], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_torch_it_says_what_to_install():
    out = setup("import sys; sys.modules['torch'] = None")
    assert out.returncode == 1
    assert out.stderr.strip() == (
        "gankernels: install torch first (pip install torch), then pip install --no-build-isolation -e ."
    )


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_cuda_asked_for_and_impossible():
    out = setup(GANKERNELS_CUDA="1")
    assert out.returncode == 1
    assert "GANKERNELS_CUDA=1 needs a CUDA build of torch (this one: None) and nvcc" in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1


def test_a_setting_of_no_meaning_is_refused():
    out = setup(GANKERNELS_CUDA="yes")
    assert out.returncode == 1
    assert "GANKERNELS_CUDA='yes', expected 0, 1 or unset" in out.stderr


def test_without_a_compiler_it_installs_the_rest():
    out = setup(CXX="no-such-compiler")
    assert out.returncode == 0, out.stderr
    assert "no C++ compiler (no-such-compiler); installing without compiled kernels" in out.stderr


@pytest.mark.parametrize("capability", ["base", "avx2"])
def test_every_compiled_copy_is_right(capability):
    if capability == "avx2" and _C.cpu_capability() == "base":
        pytest.skip("this CPU has no AVX2")
    environment = {**os.environ, "GANKERNELS_CPU_CAPABILITY": capability}
    asked = [sys.executable, "-c", "from gankernels import _C; print(_C.cpu_capability())"]
    found = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert found == capability
    operators = [
        str(p) for p in sorted((ROOT / "tests").glob("test_*.py")) if f"csrc/cpu/{p.stem[5:]}.cpp" in _kernels()
    ]
    tests = [*operators, str(ROOT / "tests" / "test_golden.py")]
    chosen = "cpu and (test_values_and_gradients or test_kept_numbers)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def _kernels():
    return {str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cpu").glob("*.cpp")}
