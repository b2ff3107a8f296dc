"""batch_norm_act's GPU kernels, executed without a GPU."""

import pytest
import test_batch_norm_act
import torch
from gpu.battery import OnGpu


class TestBatchNormActOnGpu(OnGpu, test_batch_norm_act.TestBatchNormAct):
    gpu_backends = ("triton", "cuda")
