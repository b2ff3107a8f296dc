"""bias_act's GPU kernels, executed without a GPU."""

import test_bias_act
from gpu.battery import OnGpu


class TestBiasActOnGpu(OnGpu, test_bias_act.TestBiasAct):
    gpu_backends = ("triton", "cuda")
