"""A compiled binding on CPU tensors: autograd, dispatch, entries and kernels are those of a GPU, up to the launch."""

import pytest
import torch
from torch.utils import cpp_extension

from . import nvrtc, paths
from .fixtures import cuda_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(nvrtc.missing() is not None, reason=str(nvrtc.missing())),
]
SOURCES = [
    paths.EXAMPLE / "scaled_add_torch.cpp",
    paths.EXAMPLE / "scaled_add_entries.cpp",
    paths.CSRC / "cuda" / "hooks.cpp",
]


@pytest.fixture(scope="module")
def extension():
    """The example's binding, compiled as the package's are in a build without CUDA; the path of the library."""
    folder = (
        paths.cache() / f"binding-{paths.digest(torch.__version__, *SOURCES, *paths.headers([paths.CSRC / 'cuda']))}"
    )
    folder.mkdir(exist_ok=True)
    schema = torch.library.Library("gankernels_native", "FRAGMENT")
    schema.define("example_scaled_add(Tensor x, Tensor y, float scale) -> Tensor")
    schema.define("example_row_sum(Tensor x) -> Tensor")
    sources, includes = [str(path) for path in SOURCES], [str(paths.CSRC / "cuda"), str(paths.EXAMPLE)]
    cpp_extension.load(
        "gk_example", sources, extra_cflags=["-O0"], extra_include_paths=includes, build_directory=str(folder),
        is_python_module=False,
    )  # fmt: skip
    yield str(folder / "gk_example.so")
    schema._destroy()


@pytest.mark.parametrize("cc", [80, 90])
def test_a_binding_runs_in_the_emulator(extension, cc):
    x, y = torch.randn(7, 100)[:, 1:], torch.randn(7, 99)
    with cuda_device(cc, extension=extension, folder=paths.EXAMPLE) as log:
        out = torch.ops.gankernels_native.example_scaled_add(x, y, 0.5)
        sums = torch.ops.gankernels_native.example_row_sum(x)
    torch.testing.assert_close(out, x + 0.5 * y)
    torch.testing.assert_close(sums, x.sum(1), rtol=1e-5, atol=1e-5)
    assert [record.name for record in log.launches] == ["gk::scaled_add<float, 1>", "gk::row_sum<float, 256>"]


def test_errors_cross_the_binding(extension):
    x = torch.randn(4, 4, dtype=torch.float64)
    with cuda_device(80, extension=extension, folder=paths.EXAMPLE):
        with pytest.raises(RuntimeError, match="scaled_add: dtype: got code 1"):
            torch.ops.gankernels_native.example_scaled_add(x, x, 0.5)
        with pytest.raises(RuntimeError, match="OutOfBounds"):  # a row stride of 1000 over a column of one element
            torch.ops.gankernels_native.example_row_sum(torch.zeros(2, 1000).as_strided((2, 1000), (0, 1))[:, :10].T)


def test_outside_the_cpu_has_no_kernel(extension):
    x = torch.randn(4, 4)
    with cuda_device(80, extension=extension, folder=paths.EXAMPLE):
        torch.ops.gankernels_native.example_scaled_add(x, x, 0.5)
    with pytest.raises(NotImplementedError):
        torch.ops.gankernels_native.example_scaled_add(x, x, 0.5)
