"""Builds gankernels._C from csrc/: CPU kernels always, CUDA kernels when torch and nvcc both have CUDA.

GANKERNELS_CUDA=0|1 decides instead. GANKERNELS_EXTENSION=0 installs without compiled kernels.
"""

import os
import shutil
import sys
import sysconfig
from glob import glob

from setuptools import setup

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


def with_cuda() -> bool:
    asked = os.getenv("GANKERNELS_CUDA", "")
    nvcc = CUDA_HOME and os.path.exists(os.path.join(CUDA_HOME, "bin", "nvcc"))
    if asked not in ("", "0", "1"):
        sys.exit(f"gankernels: GANKERNELS_CUDA={asked!r}, expected 0, 1 or unset")
    if asked == "1" and not (torch.version.cuda and nvcc):
        sys.exit(
            f"gankernels: GANKERNELS_CUDA=1 needs a CUDA build of torch (this one: {torch.version.cuda}) "
            f"and nvcc (CUDA_HOME: {CUDA_HOME})"
        )
    return asked != "0" and bool(torch.version.cuda and nvcc) and bool(glob("csrc/cuda/*.cu"))


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
    sources = sorted(
        glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp") + glob("csrc/cuda/*.cpp") + (glob("csrc/cuda/*.cu") if cuda else [])
    )
    # An sdist holds what the extension depends on.
    everything = sorted(f for f in glob("csrc/**/*", recursive=True) if os.path.isfile(f))
    return (CUDAExtension if cuda else CppExtension)(
        "gankernels._C", sources, include_dirs=includes, depends=everything,
        define_macros=[("GANKERNELS_WITH_CUDA", "1")] if cuda else [],
        extra_compile_args={"cxx": flags, "nvcc": ["-O3", "--expt-relaxed-constexpr"]},
    )  # fmt: skip


class Build(BuildExtension):
    """Keeps its objects between builds, also under pip: where nothing changed nothing is compiled."""

    def finalize_options(self):
        super().finalize_options()
        flavour = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
        self.build_temp = os.path.join("build", flavour + ("-cuda" if with_cuda() else ""))


compiler = os.environ.get("CXX", "c++" if sys.platform != "win32" else "cl").split()[0]
wanted = os.getenv("GANKERNELS_EXTENSION", "1") != "0"
if wanted and not shutil.which(compiler):
    print(f"gankernels: no C++ compiler ({compiler}); installing without compiled kernels", file=sys.stderr)
    wanted = False
setup(ext_modules=[extension()] if wanted else [], cmdclass={"build_ext": Build} if wanted else {})
