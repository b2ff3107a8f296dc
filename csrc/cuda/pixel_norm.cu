// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "pixel_norm.cuh"

GK_CUDA_RUNNER(pixel_norm, GK_PIXEL_NORM_KERNELS)
