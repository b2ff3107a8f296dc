"""Builds gankernels._C from csrc/: CPU kernels always, CUDA kernels when torch and nvcc both have CUDA.

GANKERNELS_CUDA=0|1 decides instead. GANKERNELS_EXTENSION=0 installs without compiled kernels.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from glob import glob

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

try:
    import torch
except ModuleNotFoundError:  # pip's build isolation hides the torch that this must be compiled against
    sys.path.append(sysconfig.get_path("purelib"))
    try:
        import torch
    except ModuleNotFoundError:
        sys.exit("gankernels: install torch first (pip install torch), then pip install --no-build-isolation -e .")

if sys.platform == "linux" and "CUDA_HOME" not in os.environ and os.path.exists("/usr/local/cuda/bin/nvcc"):
    os.environ["CUDA_HOME"] = "/usr/local/cuda"  # before the import below, which would take the folder above nvcc

from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension


def why_no_cuda():
    """What stops a CUDA build, or None."""
    if not torch.version.cuda:
        return "torch is not a CUDA build"
    nvcc = os.path.join(CUDA_HOME or "", "bin", "nvcc")
    if not os.path.exists(nvcc):
        return f"there is no nvcc (CUDA_HOME: {CUDA_HOME})"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.", text)
    if not release or release[1] != torch.version.cuda.split(".")[0]:
        return (
            f"torch was built with CUDA {torch.version.cuda}, {nvcc} is release {release[1] if release else 'unknown'}"
        )
    return None


@cache
def with_cuda():
    asked = os.getenv("GANKERNELS_CUDA", "")
    if asked not in ("", "0", "1"):
        sys.exit(f"gankernels: GANKERNELS_CUDA={asked!r}, expected 0, 1 or unset")
    if asked == "0":
        return False
    reason = why_no_cuda()
    if asked == "1" and reason:
        sys.exit(f"gankernels: GANKERNELS_CUDA=1 needs a CUDA build of torch and its nvcc, but {reason}")
    if reason and torch.version.cuda:
        print(f"gankernels: building without CUDA kernels: {reason}", file=sys.stderr)
    return reason is None


def extension():
    cuda = with_cuda()
    if cuda and not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX")
    includes = [os.path.abspath("csrc"), os.path.abspath("csrc/cuda")]
    if cuda:  # CUDAContext.h wants cusparse.h and its kin, which the wheels beside torch carry
        includes += glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "cu*", "include"))
    flags = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-unknown-pragmas"]
    if sys.platform == "linux":
        flags.append("-fopenmp")  # torch brings the runtime
    if sys.platform == "win32":
        flags = ["/O2", "/openmp"]
    sources = glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp") + glob("csrc/cuda/*.cpp")
    return (CUDAExtension if cuda else CppExtension)(
        "gankernels._C",
        sorted(sources + (glob("csrc/cuda/*.cu") if cuda else [])),
        include_dirs=includes,
        depends=files(),
        define_macros=[("GANKERNELS_WITH_CUDA", "1")] if cuda else [],
        extra_compile_args={"cxx": flags, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
    )


def files():
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk("csrc") for name in names)


class Build(BuildExtension):
    """Keeps its objects between builds, also under pip: where nothing changed nothing is compiled."""

    def finalize_options(self):
        super().finalize_options()
        flavour = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
        self.build_temp = os.path.join("build", flavour + ("-cuda" if with_cuda() else ""))


def shipped():
    """What a wheel holds beside its packages: CUDA's sources for CuPy, the operators' tests and benchmarks."""
    operators = [os.path.basename(name) for name in glob("gankernels/ops/[!_]*.py")]
    names = [
        "cells.py",
        "compile_tests.py",
        "conftest.py",
        "export_tests.py",
        "op_samples.py",
        "op_tests.py",
        *(f"test_{n}" for n in operators),
    ]
    tests = [os.path.join("tests", name) for name in names]
    sources = [name for name in files() if name.endswith((".h", ".cuh")) and os.path.join("csrc", "cpu") not in name]
    return [*sources, *filter(os.path.exists, tests), *glob("benchmarks/*.py")]


class Modules(build_py):
    """Adds what gankernels._shipped looks for; an editable install finds it in the checkout."""

    def run(self):
        super().run()
        for name in [] if self.editable_mode else shipped():
            target = os.path.join(self.build_lib, "gankernels", "_" + name)
            self.mkpath(os.path.dirname(target))
            self.copy_file(name, target)


class Sources(sdist):
    """A source distribution holds the whole of csrc, whether or not the machine that makes it can compile it."""

    def make_distribution(self):
        self.filelist.files = sorted({*self.filelist.files, *files(), *shipped(), "NOTICE"})
        super().make_distribution()


compiler = os.environ.get("CXX", "c++" if sys.platform != "win32" else "cl").split()[0]
wanted = os.getenv("GANKERNELS_EXTENSION", "1") != "0"
if wanted and not shutil.which(compiler):
    print(f"gankernels: no C++ compiler ({compiler}); installing without compiled kernels", file=sys.stderr)
    wanted = False
setup(
    ext_modules=[extension()] if wanted else [],
    cmdclass={"build_py": Modules, "sdist": Sources, **({"build_ext": Build} if wanted else {})},
)
