// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "modulate_act.cuh"

GK_CUDA_RUNNER(modulate_act, GK_MODULATE_ACT_KERNELS)
