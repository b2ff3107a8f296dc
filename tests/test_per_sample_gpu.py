"""The sums' GPU kernels, executed without a GPU."""

import pytest
import test_per_sample
import torch
from gpu.battery import OnGpu, emulated
from op_tests import assert_as_true_as_reference

import gankernels
from gankernels import ops


class TestSumSquaresOnGpu(OnGpu, test_per_sample.TestSumSquaresPerSample):
    gpu_backends = ("triton",)
    test_of_any_order = None


class TestNormOnGpu(OnGpu, test_per_sample.TestNormPerSample):
    gpu_backends = ("triton",)
    test_of_any_order = None
