// nvcc compiles the instantiations here.
#include "add_noise.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(add_noise, GK_ADD_NOISE_KERNELS)
