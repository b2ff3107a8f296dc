// nvcc compiles the instantiations here.
#include "batch_norm_act.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(batch_norm_act, GK_BATCH_NORM_ACT_KERNELS)
