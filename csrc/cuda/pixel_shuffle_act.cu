// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "pixel_shuffle_act.cuh"

GK_CUDA_RUNNER(pixel_shuffle_act, GK_PIXEL_SHUFFLE_ACT_KERNELS)
