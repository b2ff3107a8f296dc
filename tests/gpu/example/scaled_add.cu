// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "scaled_add.cuh"

GK_CUDA_RUNNER(scaled_add, GK_SCALED_ADD_KERNELS)
