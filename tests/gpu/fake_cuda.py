"""CUDA tensors on a machine without a GPU: `python -m gpu.fake_cuda` runs bias_act on them, launches in the emulator.

A process of its own, as the device that it registers stays. What is real: dispatch on the CUDA key, allocation by the
binding, device guard and stream, the plan, NVRTC, the cache, the packing. What is not: CuPy's
launch, and the GPU.
"""

import threading

import numpy as np
import torch
from torch.utils import cpp_extension

import gankernels
from gankernels import _nvrtc, ops

from . import paths, ptx
from .fake_cupy import Gpu
from .tensors import bytes_at

SOURCE = paths.ROOT / "tests" / "gpu" / "fake_cuda.cpp"


def load():
    """Builds (once) and registers the device; its functions."""
    folder = paths.cache() / f"fake-cuda-{paths.digest(torch.__version__, SOURCE)}"
    folder.mkdir(exist_ok=True)
    cpp_extension.load(
        "gk_fake_cuda", [str(SOURCE)], extra_cflags=["-O0"], build_directory=str(folder), is_python_module=False
    )
    return torch.ops.gk_fake_cuda


def execute(device, path, symbol, grid, block, params, shared):
    """Runs a launch whose params hold addresses of the device's memory."""
    with open(path) as file:
        kernel = ptx.parse(file.read(), symbol)
    assert [size for _, size, _ in kernel.params] == [len(params)]
    arena, found = ptx.Arena(), device.allocations()
    items = [(start, size, bytes_at(start, size)) for start, size in zip(found[::2], found[1::2], strict=True) if size]
    words = np.frombuffer(params, np.uint64).copy()
    original = words.copy()
    for number, (start, size, data) in enumerate(items):
        address = arena.add(f"allocation {number}", data)
        inside = (original >= start) & (original < start + size)
        words[inside] = original[inside] - np.uint64(start) + np.uint64(address)
    ptx.launch(kernel, grid, block, [words.tobytes()], arena, shared_bytes=shared, check=True)
    for number, (_, _, data) in enumerate(items):
        data[:] = arena.result(number)


def main():
    import cupy

    device = load()
    inside = []

    def launched(*launch):
        inside.append(device.device())
        execute(device, *launch)

    gpu = Gpu(cupy, "81", launched)
    _nvrtc.cupy = lambda: gpu.cupy
    device.set_stream(1, 5)
    torch.manual_seed(0)
    x, b, g = torch.randn(3, 4, 5, 7), torch.randn(4), torch.randn(3, 4, 5, 7)

    with gankernels.backend("reference"):
        wide = [t.double().requires_grad_() for t in (x, b)]
        y = ops.bias_act(*wide, act="swish", clamp=1.5)
        expected = [y.detach(), *torch.autograd.grad(y, wide, g.double())]
    on_gpu = [device.to_cuda(t, 1) for t in (x, b, g)]
    assert all(t.device == torch.device("cuda", 1) for t in on_gpu)
    with gankernels.backend("cuda"):
        results = [ops.bias_act(*on_gpu[:2], act="swish", clamp=1.5)]

    # Autograd asks for a real accelerator, so its backward is called as it would, from another thread.
    def backward():
        numbers = (1, "swish", 0.0, 2**0.5, 1.5)
        gx, gb = torch.ops.gankernels_native.bias_act_derivative(
            on_gpu[2], None, None, *on_gpu[:2], False, 1, *numbers, True, True
        )
        results.extend([gx, gb])

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    for ours, truth in zip(results, expected, strict=True):
        assert ours.device == torch.device("cuda", 1), ours.device
        torch.testing.assert_close(device.to_cpu(ours).double(), truth, rtol=1e-5, atol=1e-6)
    assert len(gpu.launches) >= 2
    assert {launch[-2:] for launch in gpu.launches} == {(1, (0x1005, 1))}, "CuPy's device and stream"
    assert set(inside) == {1}, "the guard's device while a kernel is launched"
    assert device.device() == 0, "the device after it"
    print(f"{len(gpu.launches)} launches")


if __name__ == "__main__":
    main()
