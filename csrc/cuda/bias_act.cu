// nvcc compiles the instantiations here.
#include "bias_act.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(bias_act, GK_BIAS_ACT_KERNELS)
