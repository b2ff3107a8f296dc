// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "spectral_norm.cuh"

GK_CUDA_RUNNER(spectral_norm, GK_SPECTRAL_NORM_KERNELS)
