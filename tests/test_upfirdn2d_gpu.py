"""upfirdn2d's GPU kernels, executed without a GPU."""

import test_upfirdn2d
from gpu.battery import OnGpu


class TestUpfirdn2dOnGpu(OnGpu, test_upfirdn2d.TestUpfirdn2d):
    gpu_backends = ("triton",)

    def samples(self):
        """Every third call: each is several kernels to compile and to execute one instruction at a time."""
        return iter(list(super().samples())[::3])
