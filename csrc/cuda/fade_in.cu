// nvcc compiles the instantiations here.
#include "fade_in.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(fade_in, GK_FADE_IN_KERNELS)
