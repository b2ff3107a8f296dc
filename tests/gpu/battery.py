"""An operator's battery on its GPU kernels: `class TestBiasActOnGpu(OnGpu, test_bias_act.TestBiasAct)`.

Values, gradients, second derivatives and layouts run on sm_80 and sm_90; what does not depend on the kernels
(compilation by torch, documentation, threads) is left to the operator's own battery.
"""

import contextlib

import pytest
import torch
from op_tests import Sample, assert_as_true_as_reference

import gankernels
from gankernels import _backend

from . import nvrtc
from .fixtures import TARGETS, cuda_device, triton_device


@contextlib.contextmanager
def emulated(backend, cc, configs="one"):
    """Forces a GPU backend on CPU tensors; yields the log of launches."""
    device = triton_device(cc, configs) if backend == "triton" else cuda_device(cc)
    with device as log, gankernels.backend(backend):
        yield log


def _random(like, seed):
    """Numbers that every dtype gets alike."""
    values = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(like.dtype)


class OnGpu:
    """Mixed in before an OpTests class."""

    gpu_backends = ("triton", "cuda")

    @pytest.fixture(params=[(b, cc) for b in ("triton", "cuda") for cc in TARGETS], ids=lambda p: f"{p[0]}-sm_{p[1]}")
    def backend(self, request):
        name, cc = request.param
        if name not in self.gpu_backends:
            pytest.skip(f"{self.name} has no {name} kernel")
        if name == "cuda" and (reason := nvrtc.missing()):
            pytest.skip(reason)
        if name not in _backend.operators()[self.name]:
            pytest.fail(f"{self.name} has no {name} kernel; leave it out of gpu_backends")
        if name == "cuda":
            self.needs_kernels()
        self.select(request.node.name, cc)
        with emulated(name, cc) as self.log:
            yield name

    def needs_kernels(self) -> None:
        """Each of the operator's overloads has a CUDA kernel: one without would run its CPU kernel, and pass."""
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        without = [name for name in self.overloads if not has(f"gankernels_native::{name}", "CUDA")]
        assert not without, f"no CUDA kernel is registered for {without}"

    def select(self, test: str, cc: int) -> None:
        """What of the battery this test runs on this target; all of it."""

    def second_derivatives(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Derivatives of <v, gradients of <w, y>> by every tensor and by w, for random v and w."""
        sample = sample.fresh()
        y = self.call(sample)
        tensors = dict(sample.tensors, cotangent=_random(y, 1).requires_grad_())
        first = torch.autograd.grad(y, list(sample.tensors.values()), tensors["cotangent"], create_graph=True)
        weighed = [(g * _random(g, 2 + i)).sum() for i, g in enumerate(first) if g.requires_grad]
        second = torch.autograd.grad(sum(weighed), list(tensors.values()), allow_unused=True)
        return {k: torch.zeros_like(t) if g is None else g for (k, t), g in zip(tensors.items(), second, strict=True)}

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda d: str(d)[6:])
    def test_second_derivatives(self, backend, dtype):
        if not self.second_order:
            pytest.skip(f"{self.name} has no second order")
        if not self.has(backend, dtype):
            pytest.skip(f"{self.name} on {backend} has no {dtype}")
        for s in self.on(backend, dtype):
            ours = self.second_derivatives(s)
            with gankernels.backend("reference"):
                theirs = self.second_derivatives(s)
                truth = self.second_derivatives(s.to("cpu", torch.float64))
            for k in truth:
                label = f"second derivative of {k} {s.kwargs} {list(truth[k].shape)}"
                assert_as_true_as_reference(ours[k], theirs[k], truth[k], label)

    def test_gradcheck(self, backend):
        """gradgradcheck in its fast mode, on the smallest sample: its every probe is a launch."""
        if not self.has(backend, torch.float64) or not self.second_order:
            pytest.skip(f"{self.name} on {backend} has no float64 second order")
        samples = [s for s in self.on(backend, torch.float64) if all(t.numel() for t in s.tensors.values())]
        s = min(samples, key=lambda s: sum(t.numel() for t in s.tensors.values()))
        names = list(s.tensors)

        def f(*tensors):
            return self.op(**dict(zip(names, tensors, strict=True)), **s.fixed, **s.kwargs)

        assert torch.autograd.gradgradcheck(f, tuple(s.tensors.values()), atol=1e-4, fast_mode=True)

    test_compile = None
    test_compile_dynamic_shapes = None
    test_compile_follows_the_forced_backend = None
    test_opcheck = None
    test_export = None
    test_onnx = None
    test_threads_do_not_change_the_result = None
    test_unusable_backend_raises_with_the_reason = None
    test_bad_input = None
    test_documented = None


class OnGpuInPart(OnGpu):
    """The battery on few calls, others for each dtype, where each is several kernels to compile and to execute."""

    def select(self, test, cc):
        values = test.startswith("test_values")
        if cc == 90 and not values and not test.startswith("test_second"):
            pytest.skip("the emulated code for sm_90 is that for sm_80: values and derivatives suffice")
        self.most = 2 if values and cc == 80 else 1

    def on(self, backend, dtype):
        start = (torch.float32, torch.bfloat16, torch.float16, torch.float64).index(dtype)
        return super().on(backend, dtype)[start % 3 :: 3][: self.most]
