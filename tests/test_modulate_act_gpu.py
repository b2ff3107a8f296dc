"""modulate_act's GPU kernels, executed without a GPU."""

import test_modulate_act
from gpu.battery import OnGpu


class TestModulateActOnGpu(OnGpu, test_modulate_act.TestModulateAct):
    gpu_backends = ("triton", "cuda")
