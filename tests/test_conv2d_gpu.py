"""The convolutions' GPU kernels, executed without a GPU."""

import pytest
import test_conv2d
import torch
from gpu.battery import OnGpu, emulated
from gpu.triton_device import compile_only
from op_tests import Calls, assert_as_true_as_reference

import gankernels
from gankernels.ops import conv2d, conv_transpose2d


class ConvolutionOnGpu(OnGpu):
    gpu_backends = ("triton",)
    layout_of = ("x", "weight")
    most = 3

    def on(self, backend, dtype):
        """Every third call, other ones for each dtype: each is several kernels to compile and to execute."""
        start = (torch.float32, torch.bfloat16, torch.float16, torch.float64).index(dtype)
        return super().on(backend, dtype)[start % 3 :: 3][: self.most]

    def test_layouts(self, backend):
        self.most = 1
        super().test_layouts(backend)


class TestConv2dOnGpu(ConvolutionOnGpu, test_conv2d.TestConv2d):
    pass


class TestConvTranspose2dOnGpu(ConvolutionOnGpu, test_conv2d.TestConvTranspose2d):
    pass
