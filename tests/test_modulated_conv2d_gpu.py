"""modulated_conv2d's GPU kernels, executed without a GPU; on cuda its convolution is PyTorch's, on the CPU."""

import test_modulated_conv2d
from gpu.battery import OnGpuInPart


class TestModulatedConv2dOnGpu(OnGpuInPart, test_modulated_conv2d.TestModulatedConv2d):
    pass


class TestModulatedConv2dActOnGpu(OnGpuInPart, test_modulated_conv2d.TestModulatedConv2dAct):
    pass
